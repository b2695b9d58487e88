import pytest

from idlegrid.actors.worker_address import client_tls, host_of, listener_tls


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("tcp://10.0.0.3:4711", "10.0.0.3"),
        ("tls://[fe80::1]:4711", "fe80::1"),
        ("inproc://10.0.0.3/123/1", "127.0.0.1"),
        ("ucx://10.0.0.3:4711", "127.0.0.1"),
    ],
)
def test_the_host_of_a_worker(address, host):
    assert host_of(address) == host


class Worker:
    def __init__(self, address):
        self.address, self.security = address, self

    def get_listen_args(self, role):
        return {"ssl_context": ("listen", role)}

    def get_connection_args(self, role):
        return {"ssl_context": ("connect", role)}


def test_tls_is_the_workers_own():
    private, plain = Worker("tls://127.0.0.1:1"), Worker("tcp://127.0.0.1:1")
    assert (listener_tls(private), client_tls(private)) == (("listen", "worker"), ("connect", "worker"))
    assert (listener_tls(plain), client_tls(plain)) == (None, None)
