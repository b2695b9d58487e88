"""A channel is as private as Dask's own connections: with TLS nobody talks to it, or listens, without a certificate."""

import shutil
import ssl
import subprocess

import pytest
from chain_engine import ChainEngine

from idlegrid.actors.serving.channel import Channel
from idlegrid.actors.serving.errors import ChannelLost
from idlegrid.actors.serving.host import Host

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


@pytest.fixture
def contexts(tmp_path):
    """TLS contexts as Dask's `Security` makes them, of one self-signed certificate: listener's, client's."""
    from distributed.security import Security

    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=idlegrid test", "-days", "2", "-keyout", key, "-out", cert]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *subject]
    subprocess.run(made, check=True, capture_output=True)
    roles = {
        f"tls_{role}_{part}": str(path)
        for role in ("client", "worker")
        for part, path in (("cert", cert), ("key", key))
    }
    security = Security(tls_ca_file=str(cert), require_encryption=True, **roles)
    return security.get_listen_args("worker")["ssl_context"], security.get_connection_args("client")["ssl_context"]


async def test_with_certificates_it_works_and_without_it_does_not(contexts):
    listener, client = contexts
    host = Host(ChainEngine, tls=listener)
    address = await host.start()
    channel = await Channel.open(address, tls=client)
    assert tuple(await channel.call("encode", "ab")) == (97, 98)
    await channel.close()
    stranger = ssl.create_default_context()
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    for context in (None, stranger):
        with pytest.raises(ChannelLost):
            await Channel.open(address, tls=context, patience=1.0)
    await host.close()
