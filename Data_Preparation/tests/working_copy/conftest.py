import pytest
from support.object_store import s3_at, s3_server

from data_pipeline.utils import remote


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote, "_FIRST_PAUSE_S", 0.001)


@pytest.fixture(scope="package")
def s3_url():
    """The address of an S3 server on this machine."""
    with s3_server() as url:
        yield url


@pytest.fixture
def s3(s3_url):
    """That server as a file system."""
    with s3_at(s3_url) as system:
        yield system


@pytest.fixture
def bucket(s3, tmp_path_factory):
    """A new bucket."""
    name = f"bucket-{tmp_path_factory.mktemp('bucket').name}".replace("_", "-")
    s3.mkdir(name)
    return name
