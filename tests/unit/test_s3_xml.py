"""The documents of S3: what they say, and what is no document."""

from datetime import UTC, datetime
from xml.etree.ElementTree import fromstring

import pytest

from cachesync.store.s3.calls import DOCUMENTS, is_known
from cachesync.store.s3.connection import Garbled
from cachesync.store.s3.errors import Refused
from cachesync.store.s3.xml import complete, read, refusal

LIST = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">%s</ListBucketResult>"""
ENTRY = b"""<Contents><Key>a%%2Fb+c%%2B%%E2%%98%%83</Key><LastModified>2026-11-28T10:00:00.123Z</LastModified>
<ETag>"e"</ETag><Size>7</Size><Owner><ID>x</ID></Owner></Contents>"""


def test_a_page():
    text = LIST % (
        b"<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
        + ENTRY
        + b"<CommonPrefixes><Prefix>a%%2F</Prefix></CommonPrefixes>"
    ).replace(b"%%", b"%")
    page = read("list_objects_v2", text)
    (entry,) = page["Contents"]
    assert (entry["Key"], entry["Size"], entry["ETag"]) == ("a/b c+☃", 7, '"e"')
    assert entry["LastModified"] == datetime(2026, 11, 28, 10, 0, 0, 123_000, UTC)
    assert page["CommonPrefixes"] == [{"Prefix": "a/"}]
    assert (page["IsTruncated"], page["NextContinuationToken"]) == (True, "t")


def test_names_stay_where_the_server_did_not_encode_them():
    text = LIST % (ENTRY.replace(b"%%", b"%") + b"<IsTruncated>false</IsTruncated>")
    page = read("list_objects_v2", text)
    assert page["Contents"][0]["Key"] == "a%2Fb+c%2B%E2%98%83"
    assert page["IsTruncated"] is False


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        LIST % b"<Contents><Key>k</Key><Size>1</Size></Contents>",
        LIST % b"<Contents><Size>1</Size><LastModified>2026-11-28T10:00:00Z</LastModified></Contents>",
        LIST % b"<Contents><Key>k</Key><Size>many</Size><LastModified>2026-11-28T10:00:00Z</LastModified></Contents>",
        LIST % b"<Contents><Key>k</Key><Size>1</Size><LastModified>soon</LastModified></Contents>",
        LIST % b"<CommonPrefixes></CommonPrefixes>",
        b"<ListBucketResult><IsTruncated>false",
    ],
)
def test_what_is_no_page_is_an_error(text):
    with pytest.raises(Garbled):
        read("list_objects_v2", text)


@pytest.mark.parametrize("method", sorted(DOCUMENTS))
def test_an_error_may_come_as_a_success(method):
    assert is_known(method, {})
    with pytest.raises(Refused) as refused:
        read(method, b"<Error><Code>InternalError</Code><Message>again</Message></Error>")
    assert refused.value.response == {
        "Error": {"Code": "InternalError", "Message": "again"},
        "ResponseMetadata": {"HTTPStatusCode": 500, "HTTPHeaders": {}},
    }


def test_results():
    begun = b"<InitiateMultipartUploadResult xmlns='x'><UploadId>u</UploadId></InitiateMultipartUploadResult>"
    assert read("create_multipart_upload", begun) == {"UploadId": "u"}
    copied = b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>"
    assert read("copy_object", copied) == {"CopyObjectResult": {"ETag": "e"}}
    copied = b"<CopyPartResult><ETag>e</ETag></CopyPartResult>"
    assert read("upload_part_copy", copied) == {"CopyPartResult": {"ETag": "e"}}
    assert read("get_bucket_versioning", b"<VersioningConfiguration/>") == {}


@pytest.mark.parametrize("method", sorted(DOCUMENTS))
def test_a_document_of_another_kind_is_none(method):
    with pytest.raises(Garbled, match="html"):
        read(method, b"<html><body><ETag>e</ETag><UploadId>u</UploadId></body></html>")


def test_the_parts_of_an_upload():
    document = fromstring(complete([{"PartNumber": 1, "ETag": '"e&"'}, {"PartNumber": 2, "ETag": '"f"'}]))
    assert [[(each.tag.rpartition("}")[2], each.text) for each in part] for part in document] == [
        [("PartNumber", "1"), ("ETag", '"e&"')],
        [("PartNumber", "2"), ("ETag", '"f"')],
    ]


@pytest.mark.parametrize(
    ("status", "text", "code", "message"),
    [
        (404, b"", "404", "Not Found"),
        (599, b"", "599", ""),
        (403, b"<html><body>no", "403", "Forbidden"),
        (503, b"<html><body>no</body></html>", "503", "Service Unavailable"),
        (
            503,
            b"<Error><Code>SlowDown</Code><Message>slow</Message><RequestId>1</RequestId></Error>",
            "SlowDown",
            "slow",
        ),
        (400, b"<Error xmlns='x'><Code>A</Code><Message/></Error>", "A", ""),
    ],
)
def test_refusals(status, text, code, message):
    response = refusal(status, text, {"x-amz-request-id": "1"}).response
    assert (response["Error"]["Code"], response["Error"]["Message"]) == (code, message)
    assert response["ResponseMetadata"] == {"HTTPStatusCode": status, "HTTPHeaders": {"x-amz-request-id": "1"}}
