"""The documents of S3's requests and answers, by botocore's names. Pure. Raises Garbled for what is none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_plus
from xml.etree.ElementTree import Element, ParseError, SubElement, XMLParser, fromstring, tostring

from cachesync.store.s3.connection import Garbled, NoDocument
from cachesync.store.s3.errors import Refused
from cachesync.store.s3.fields import size

MAX_MARKS = 64 * 1024
"""Tags and attributes of a document, at most: a page of a thousand names has a third of them. They are what takes
memory, not the text between them."""

_MARK = re.compile(rb"<|=\s*[\"']")
_LISTS = ("Contents", "CommonPrefixes")
_ISO_8601 = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3})?Z")
_ROOTS = {
    "complete_multipart_upload": ("CompleteMultipartUploadResult",),
    "create_multipart_upload": ("InitiateMultipartUploadResult",),
    "get_bucket_versioning": ("VersioningConfiguration", "GetBucketVersioningResponse"),  # moto's name for it
}
"""The names of the root elements of documents that are lists of values."""

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def listing(text: bytes) -> dict[str, Any]:
    """A page of objects, asked for with names as in a URL."""
    document = _document(text, "ListBucketResult")
    page: dict[str, Any] = {name: [] for name in _LISTS}
    page |= _values(each for each in document if _name(each) not in _LISTS)
    for element in document:
        if (name := _name(element)) in _LISTS:
            page[name].append(_values(element))
    decode = unquote_plus if page.pop("EncodingType", None) == "url" else str
    try:
        for entry in page["Contents"]:
            entry["Key"], entry["Size"] = decode(entry["Key"]), size(entry["Size"])
            entry["LastModified"] = moment(entry["LastModified"])
        for entry in page["CommonPrefixes"]:
            entry["Prefix"] = decode(entry["Prefix"])
    except (KeyError, ValueError, OverflowError, RuntimeError) as error:  # the last is botocore's for odd times
        raise Garbled(f"the listing is none: {error!r}") from error
    if "IsTruncated" in page:
        page["IsTruncated"] = page["IsTruncated"] == "true"
    return page


def moment(text: str) -> datetime:
    """A time as S3 writes it; in any other form as botocore reads it, which takes 300 times as long."""
    if _ISO_8601.fullmatch(text):
        return datetime.fromisoformat(text)
    from botocore.utils import parse_timestamp

    told: datetime = parse_timestamp(text)
    return told


def fields(text: bytes, *roots: str) -> dict[str, Any]:
    """Parse a document that is a list of values. ``roots`` are the allowed names of its root element."""
    return _values(_document(text, *roots))


def complete(parts: Iterable[Mapping[str, Any]]) -> bytes:
    """The parts that an upload is made of."""
    document = Element("CompleteMultipartUpload", xmlns=_NAMESPACE)
    for part in parts:
        element = SubElement(document, "Part")
        for name, value in part.items():
            SubElement(element, name).text = str(value)
    written: bytes = tostring(document, "utf-8")
    return written


def refusal(status: int, text: bytes, headers: Mapping[str, str]) -> Refused:
    """What an answer says that is no success, be it an error, a page of some proxy's, or nothing."""
    told: dict[str, Any] = {}
    try:
        root = _parsed(text)
        if _name(root) == "Error":
            told = _values(root)
    except Garbled:
        pass
    if not told:
        known = status in HTTPStatus.__members__.values()
        told = {"Code": str(status), "Message": HTTPStatus(status).phrase if known else ""}
    return Refused({"Error": told, "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers}})


def read(method: str, text: bytes) -> dict[str, Any]:
    """What the answer to a call says, by botocore's names."""
    if method == "list_objects_v2":
        return listing(text)
    if method == "copy_object":
        return {"CopyObjectResult": fields(text, "CopyObjectResult")}
    if method == "upload_part_copy":
        return {"CopyPartResult": fields(text, "CopyPartResult")}
    return fields(text, *_ROOTS[method])


def _document(text: bytes, *roots: str) -> Element:
    """The document of an answer that says 200. S3 says so before it knows how copying and completing end:
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html"""
    root = _parsed(text)
    if _name(root) == "Error":
        raise refusal(HTTPStatus.INTERNAL_SERVER_ERROR, text, {})
    if _name(root) not in roots:
        raise Garbled(f"the response is not an S3 document, but {_name(root):.40}")
    return root


def check(text: bytes) -> None:
    """Raise NoDocument for a document in UTF-8 that takes more memory than its size: one with a DOCTYPE, which S3 never
    sends and which alone can define entities, or with more elements than any page."""
    if b"<!DOCTYPE" in text:
        raise NoDocument("it has a DOCTYPE")
    marks = text.count(b"<") + text.count(b"=")
    if marks > MAX_MARKS and len(_MARK.findall(text)) > MAX_MARKS:
        raise NoDocument("it has more elements than any page")


def _parsed(text: bytes) -> Element:
    check(text)
    try:
        # Read as UTF-8 whatever it says of itself: in another encoding the DOCTYPE would not have been seen.
        return fromstring(text, XMLParser(encoding="utf-8"))  # noqa: S314 -- bounded, and without entities
    except ParseError as error:
        raise Garbled(f"the answer is no document: {error}") from error


def _values(elements: Iterable[Element]) -> dict[str, Any]:
    """Each element's text by its name. Raises Garbled for one that comes twice, but for what may be several."""
    values: dict[str, Any] = {}
    for element in elements:
        name = _name(element)
        if name in values and name != "ChecksumAlgorithm":
            raise Garbled(f"the answer says {name:.40} twice")
        values[name] = element.text or ""
    return values


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]
