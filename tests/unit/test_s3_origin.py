"""Which answers are S3's, and which are somebody else's."""

import pytest

from cachesync.store.s3.origin import flaw, is_foreign

NAMED = {"x-amz-request-id": "18ECB3A9F7A57684"}
PAGE = {"content-type": "text/html; charset=utf-8", "content-length": "58"}
TAGGED = PAGE | {"etag": '"5f3"'}
EMPTY = {"content-length": "0"}
ETAG = {"ETag": '"e"'}


@pytest.mark.parametrize(
    ("method", "status", "headers", "said"),
    [
        ("get_object", 200, NAMED | {"content-type": "text/html"}, ETAG),
        ("get_object", 206, {"content-type": "text/plain"}, ETAG),  # of a server that sends no ids
        ("get_object", 200, {"x-amz-meta-sha256": "0", "content-type": "text/html"}, ETAG),
        ("head_object", 200, NAMED, ETAG),
        ("put_object", 200, NAMED | EMPTY, ETAG),
        ("put_object", 200, EMPTY | {"content-type": "text/html"}, ETAG),
        ("upload_part", 200, {"x-amzn-requestid": "1"}, ETAG),
        ("delete_object", 204, NAMED, {}),
        ("delete_object", 204, {}, {}),
        ("delete_object", 200, NAMED | EMPTY, {}),
        ("abort_multipart_upload", 204, {"x-amz-id-2": "1"}, {}),
        ("list_objects_v2", 200, {}, {"IsTruncated": False}),
        ("copy_object", 200, {}, {"CopyObjectResult": ETAG}),
        ("upload_part_copy", 200, NAMED, {"CopyPartResult": ETAG}),
        ("create_multipart_upload", 200, NAMED, {"UploadId": "u"}),
        ("complete_multipart_upload", 200, NAMED, ETAG),
        ("get_object_tagging", 200, {}, {"TagSet": []}),
        ("head_bucket", 200, {"x-amz-bucket-region": "us-east-1"}, {}),
        ("get_bucket_lifecycle_configuration", 200, NAMED, {}),
    ],
)
def test_what_is_an_answer(method, status, headers, said):
    assert flaw(method, status, headers, said) is None


@pytest.mark.parametrize(
    ("method", "status", "headers", "said"),
    [
        ("get_object", 200, PAGE, {}),
        ("get_object", 200, TAGGED, ETAG),
        ("get_object", 200, NAMED, {}),
        ("head_object", 200, PAGE, {}),
        ("head_object", 200, TAGGED, ETAG),
        ("head_object", 200, {"content-type": "application/xhtml+xml"}, ETAG),
        ("put_object", 200, PAGE, {}),
        ("put_object", 200, TAGGED, ETAG),
        ("put_object", 200, NAMED | EMPTY, {}),
        ("upload_part", 200, {"transfer-encoding": "chunked"}, ETAG),
        ("delete_object", 200, PAGE, {}),
        ("delete_object", 200, EMPTY, {}),
        ("delete_object", 200, NAMED | PAGE, {}),
        ("delete_object", 200, {"x-amz-cf-id": "1"}, {}),  # CloudFront stands before any page
        ("abort_multipart_upload", 200, PAGE, {}),
        ("list_objects_v2", 200, NAMED, {}),
        ("list_object_versions", 200, NAMED, {}),
        ("copy_object", 200, NAMED, {}),
        ("copy_object", 200, NAMED, {"CopyObjectResult": {}}),
        ("upload_part_copy", 200, NAMED, {"CopyPartResult": ""}),
        ("create_multipart_upload", 200, NAMED, {"UploadId": ""}),
        ("complete_multipart_upload", 200, NAMED, {}),
        ("get_object_tagging", 200, NAMED, {}),
        ("head_bucket", 200, PAGE, {}),
        ("get_bucket_versioning", 200, PAGE, {}),
        ("put_bucket_versioning", 200, PAGE, {}),
    ],
)
def test_what_is_none(method, status, headers, said):
    assert flaw(method, status, headers, said) is not None


@pytest.mark.parametrize(
    ("code", "status", "headers", "foreign"),
    [
        ("404", 404, PAGE, True),
        ("404", 404, {}, True),
        ("404", 404, NAMED, False),
        ("", 404, PAGE, True),  # what botocore makes of a page that happens to be XML
        ("NoSuchKey", 404, {}, False),
        ("403", 403, PAGE, True),
        ("412", 412, PAGE, True),
        ("302", 302, PAGE, True),
        ("301", 301, NAMED, False),
        ("501", 501, PAGE, True),
        ("500", 500, PAGE, False),  # tried again, whoever says so
        ("503", 503, PAGE, False),
        ("429", 429, PAGE, False),
    ],
)
def test_errors(code, status, headers, foreign):
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers}}
    assert is_foreign(response) is foreign
