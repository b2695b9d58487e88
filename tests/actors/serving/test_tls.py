"""A channel is as private as Dask's own connections: with TLS nobody talks to it, or listens, without a certificate."""

import ssl

import pytest
from chain_engine import ChainEngine

from idlegrid.actors.serving.channel import Channel
from idlegrid.actors.serving.errors import ChannelLost
from idlegrid.actors.serving.host import Host


async def test_with_certificates_it_works_and_without_it_does_not(certificate):
    listener, client = certificate
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
