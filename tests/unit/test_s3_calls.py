"""What an answer's headers say."""

from datetime import UTC, datetime

import pytest

from cachesync.store.s3.calls import told
from cachesync.store.s3.connection import Garbled

AT = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Nov 1994 09:49:37 +0100"]
)
def test_a_date_is_read_in_each_form_that_is_about(text):
    assert told({"last-modified": text})["LastModified"] == AT


@pytest.mark.parametrize("text", ["yesterday", "Sun, 06 Nov 1994 25:49:37 GMT", "Sun, 31 Feb 1994 08:49:37 GMT"])
def test_a_date_that_is_none_is_no_answer(text):
    with pytest.raises(Garbled):
        told({"last-modified": text})
