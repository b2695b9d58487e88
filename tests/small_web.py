"""A small web on this machine: whatever address is dialled, its server answers, and every dial is noted."""

from __future__ import annotations

import asyncio
import datetime

import httpcore
import media_files as files
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PICTURE = files.black_png(100, 100)


class Web(httpcore.AsyncNetworkBackend):
    """The network. `names`: host → its addresses, or lists of them, one for each time that it is asked for."""

    def __init__(self, ports):
        self.ports, self.dialled, self.asked, self.names = ports, [], [], {}
        self.seen = []

    async def resolve(self, host, port):
        self.asked.append(host)
        known = self.names.get(host)
        if known is None:
            raise OSError("unknown")
        return known.pop(0) if isinstance(known[0], list) else known

    async def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):  # noqa: ASYNC109 - of httpcore
        self.dialled.append(host)
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self.ports[port], timeout=timeout)


def certificate(folder, names):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = folder / "tls.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, form, plain) + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def answers(path, writer):
    path, _, query = path.partition("?")
    match path:
        case "/picture":
            say(writer, body=PICTURE)
        case "/sound":
            say(writer, body=b"fLaC" + bytes(100))
        case "/page":
            say(writer, body=b"<html>" + bytes(1000))
        case "/short":
            say(writer, body=b"\x89PNG\r\n\x1a\n")
        case "/to":
            say(writer, "302 Found", location=query)
        case "/gzip":
            say(writer, body=PICTURE, content_encoding="gzip")
        case "/liar":
            say(writer, body=b"\x89PNG\r\n\x1a\n" + bytes(300_000), content_length=None)
        case "/large":
            say(writer, body=b"", content_length=10**12)
        case "/endless":
            say(writer, body=b"\x89PNG\r\n\x1a\n", content_length=None)
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        case "/drip":
            say(writer, body=b"\x89PNG\r\n\x1a\n", content_length=None)
            while True:
                writer.write(b"\0")
                await writer.drain()
                await asyncio.sleep(0.01)
        case "/silent":
            await asyncio.sleep(60)
        case "/cut":
            say(writer, body=PICTURE[:-10], content_length=len(PICTURE))
        case "/headers":
            writer.write(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 200_000 + b"\r\n\r\n")
        case "/noise":
            writer.write(b"SSH-2.0-OpenSSH\r\n")
        case _:
            say(writer, "404 Not Found")
    await writer.drain()


def say(writer, status="200 OK", body=b"", **headers):
    headers = {"content_length": len(body), "connection": "close"} | headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items() if value is not None)
    writer.write(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body)
