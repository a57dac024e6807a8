"""S3 is spoken in two ways, ours and botocore's: both keep the contract."""

from tests.conftest import KINDS
from tests.servers import kind_of

kind = kind_of(*KINDS, "seaweed by botocore", "moto by botocore")
