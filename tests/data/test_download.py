"""Tests of the download of images, from a server that misbehaves."""

import hashlib
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import closing
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote

import pytest
from misbehaving_server import bomb, picture, send, serving

from halspan.core.errors import DataError
from halspan.data.download.addresses import downloaded_file
from halspan.data.download.fetch import THREAD, Downloader
from halspan.data.download.manifest import LOCK, Manifest
from halspan.data.download.web import Client, Limits


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def fetch(tmp_path):
    """Fetch addresses with little patience; gives the outcomes by address."""

    def fetch(*urls, limits=None, **options):
        limits = Limits(**{"connect_seconds": 1.0, "read_seconds": 0.3, "total_seconds": 1.0, "max_bytes": 10_000}
                        | (limits or {}))  # fmt: skip
        options = {"images": tmp_path, "back_off_seconds": 0.01, "allow_loopback": True} | options
        return {outcome.url: outcome for outcome in Downloader(limits=limits, **options).run(urls)}

    return fetch


@pytest.fixture
def connections(monkeypatch):
    """Return every address that a socket of this process is connected to, whatever comes of it."""
    seen, connect = [], socket.socket.connect

    def noted(self, address):
        seen.append(address[0])
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noted)
    return seen


def files(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "downloaded").iterdir()} - {LOCK}


def manifest(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "downloaded/manifest.jsonl").read_text().splitlines()]


def test_an_image_is_stored_under_its_addresss_name_and_listed(server, fetch, tmp_path):
    content = picture(1)
    url = server.page("/a.png", content)
    fetch(url)
    name = downloaded_file(url).name
    assert (tmp_path / "downloaded" / name).read_bytes() == content
    assert manifest(tmp_path) == [
        {
            "url": url,
            "state": "there",
            "file": name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
        }
    ]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_an_address_whose_server_says_no_is_dead_at_once(server, fetch, tmp_path, status):
    url = server.page("/a.png", b"no", status=status)
    outcome = fetch(url)[url]
    assert (outcome.state, outcome.reason, outcome.status) == ("dead", f"HTTP {status}", status)
    assert server.asked["/a.png"] == 1
    assert files(tmp_path) == {"manifest.jsonl"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_recovers_is_asked_again(server, fetch, status):
    def recover(handler):
        send(handler, picture(), status=status if server.asked["/a.png"] < 3 else 200)

    server.pages["/a.png"] = recover
    url = server.url("/a.png")
    assert fetch(url)[url].state == "there"
    assert server.asked["/a.png"] == 3


def test_tries_are_bounded(server, fetch):
    url = server.page("/a.png", status=500)
    outcome = fetch(url, retries=2)[url]
    assert (outcome.state, outcome.reason) == ("unreachable", "HTTP 500")
    assert server.asked["/a.png"] == 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_server_that_asks_for_patience_is_given_it(server, fetch, form):
    times = []

    def ask_for_patience(handler):
        times.append(time.time())
        wait = "1" if form == "seconds" else formatdate(int(times[0]) + 2, usegmt=True)
        send(handler, picture(), status=429 if len(times) == 1 else 200, Retry_After=wait)

    server.pages["/a.png"] = ask_for_patience
    url = server.url("/a.png")
    assert fetch(url)[url].state == "there"
    assert times[1] - times[0] > 0.9


def test_a_server_that_asks_for_an_hour_is_left_for_another_run(server, fetch):
    url = server.page("/a.png", status=503, Retry_After="3600")
    assert fetch(url)[url].state == "unreachable"
    assert server.asked["/a.png"] == 1


def test_a_server_that_does_not_answer_is_given_up(server, fetch):
    server.pages["/a.png"] = lambda handler: server.ending.wait(10)
    url = server.url("/a.png")
    started = time.monotonic()
    outcome = fetch(url, retries=1)[url]
    assert (outcome.state, outcome.reason) == ("unreachable", "no answer in time")
    assert time.monotonic() - started < 2
    assert server.asked["/a.png"] == 2


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_server_that_drips_is_cut_at_the_deadline(server, fetch, tmp_path, part):
    def drip(handler):
        if part == "body":
            handler.send_response(200)
            handler.send_header("Content-Length", "5000")
            handler.end_headers()
        else:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not server.ending.wait(0.05):
            handler.wfile.write(b"a")

    server.pages["/a.png"] = drip
    url = server.url("/a.png")
    started = time.monotonic()
    outcome = fetch(url, limits={"total_seconds": 0.5})[url]
    assert (outcome.state, outcome.reason) == ("unreachable", "not done within 0.5 s")
    assert time.monotonic() - started < 1.5
    assert files(tmp_path) == {"manifest.jsonl"}


def test_the_deadline_also_ends_a_wait_in_silence(server, fetch):
    server.pages["/a.png"] = lambda handler: server.ending.wait(10)
    url = server.url("/a.png")
    started = time.monotonic()
    assert fetch(url, limits={"read_seconds": 5, "total_seconds": 0.3})[url].reason == "not done within 0.3 s"
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("form", ["length", "chunked"])
def test_an_image_cut_off_in_the_middle_is_asked_for_again(server, fetch, form):
    content = picture(1)

    def cut_off(handler):
        if server.asked["/a.png"] > 1:
            send(handler, content)
        elif form == "length":
            send(handler, content[:20], Content_Length=str(len(content)))
        else:
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.write(b"40\r\n" + content[:20])

    server.pages["/a.png"] = cut_off
    url = server.url("/a.png")
    assert fetch(url)[url].state == "there"
    assert server.asked["/a.png"] == 2


def test_an_image_cut_off_without_a_length_is_not_kept(server, fetch, tmp_path):
    def cut_off(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(picture(1, "JPEG")[:-100])

    server.pages["/a.jpg"] = cut_off
    url = server.url("/a.jpg")
    assert fetch(url)[url].state == "refused"
    assert files(tmp_path) == {"manifest.jsonl"}


def test_redirects_are_followed_also_relative_ones_in_utf8(server, fetch):
    server.page("/bilder/ä.png", picture())
    server.pages["/b"] = lambda handler: handler.wfile.write(
        "HTTP/1.1 302 Found\r\nLocation: bilder/ä.png\r\nContent-Length: 0\r\n\r\n".encode()
    )
    url = server.page("/a.png", status=301, Location=server.url("/b"))
    assert fetch(url)[url].state == "there"


def test_a_redirect_loop_is_refused_after_five(server, fetch):
    url = server.page("/a.png", status=302, Location="/a.png")
    outcome = fetch(url)[url]
    assert (outcome.state, outcome.reason) == ("refused", "too many redirects")
    assert server.asked["/a.png"] == 6


@pytest.mark.parametrize(
    "to", ["http://10.0.0.1/a.png", "http://169.254.169.254/latest/meta-data", "http://[::ffff:10.0.0.1]/", "//0.0.0.0"]
)
def test_a_redirect_to_a_private_address_is_refused_without_a_connection(server, fetch, connections, to):
    url = server.page("/a.png", status=302, Location=to)
    outcome = fetch(url)[url]
    assert (outcome.state, outcome.reason) == ("refused", "not on the public internet")
    assert connections == ["127.0.0.1"]


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/a.png", "gopher://127.0.0.1/", "http://["])
def test_a_redirect_to_something_else_than_http_is_refused(server, fetch, to):
    url = server.page("/a.png", status=302, Location=to)
    outcome = fetch(url)[url]
    assert (outcome.state, outcome.reason) == ("refused", "not a web address")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_this_machine_is_refused_unless_a_test_allows_it(fetch, connections, host):
    url = f"http://{host}:9/a.png"
    outcome = fetch(url, allow_loopback=False)[url]
    assert outcome.state == "refused" or outcome.reason == "host not found"  # not every system reads 0x7f.1 as a number
    assert connections == []


def test_a_name_is_resolved_once_and_the_connection_made_to_what_was_checked(server, fetch, connections, monkeypatch):
    answers, resolve = [], socket.getaddrinfo

    def rebinding(host, port, *arguments, **options):
        if host != "rebinding.example":  # an address in numbers: no name is asked for
            return resolve(host, port, *arguments, **options)
        answers.append("127.0.0.1" if not answers else "10.0.0.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[-1], port))]

    server.page("/a.png", picture())
    url = server.url("/a.png").replace("127.0.0.1", "rebinding.example")
    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert fetch(url)[url].state == "there"
    assert (answers, connections) == (["127.0.0.1"], ["127.0.0.1"])


def test_a_name_with_one_private_address_among_others_is_refused(server, fetch, connections, monkeypatch):
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, server.server_address[1])) for ip in ("127.0.0.1", "10.1.1.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    url = "http://two.example/a.png"
    outcome = fetch(url)[url]
    assert (outcome.state, outcome.detail) == ("refused", "two.example is 10.1.1.1")
    assert connections == []


def test_a_page_behind_an_images_name_is_refused_and_not_kept(server, fetch, tmp_path):
    url = server.page("/a.jpg", b"<!DOCTYPE html><p>Not found</p>", Content_Type="text/html; charset=utf-8")
    outcome = fetch(url)[url]
    assert (outcome.state, outcome.reason) == ("refused", "is not an image that can be read but text/html")
    assert files(tmp_path) == {"manifest.jsonl"}


def test_an_image_whose_server_calls_it_something_else_is_kept(server, fetch):
    url = server.page("/a.png", picture(), Content_Type="application/octet-stream")
    assert fetch(url)[url].state == "there"


def test_a_claim_of_10_gb_is_refused_before_the_body(server, fetch):
    written = []

    def claim(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(10**10))
        handler.end_headers()
        server.ending.wait(5)
        written.append(handler.wfile.write(b"a"))

    server.pages["/a.png"] = claim
    url = server.url("/a.png")
    outcome = fetch(url)[url]
    assert (outcome.state, outcome.detail) == ("refused", "10000000000 bytes, as the server says")
    assert written == []


def test_an_endless_body_is_cut(server, fetch, tmp_path):
    sent = []

    def endless(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        while not server.ending.is_set():
            handler.wfile.write(b"400\r\n" + bytes(1024) + b"\r\n")
            sent.append(1024)

    server.pages["/a.png"] = endless
    url = server.url("/a.png")
    outcome = fetch(url, limits={"max_bytes": 1024 * 1024})[url]
    assert (outcome.state, outcome.reason) == ("refused", "more than 1 MiB")
    assert sum(sent) < 30 * 2**20  # the rest is what the system's buffers hold
    assert files(tmp_path) == {"manifest.jsonl"}


@pytest.mark.parametrize("side", [10_000, 20_000])  # above Pillow's limit of 89 million pixels, and above twice that
def test_a_decompression_bomb_is_refused_by_its_header(server, fetch, side):
    url = server.page("/a.png", bomb(side))
    started = time.monotonic()
    outcome = fetch(url, limits={"max_bytes": 10**6})[url]
    assert (outcome.state, outcome.reason) == ("refused", "is too large")
    assert time.monotonic() - started < 0.5


def test_a_compressed_body_is_refused(server, fetch):
    url = server.page("/a.png", picture(), Content_Encoding="gzip")
    outcome = fetch(url)[url]
    assert (outcome.state, outcome.reason) == ("refused", "compressed though not asked for")


def test_what_is_not_http_is_given_up(server, fetch):
    server.pages["/a.png"] = lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")
    url = server.url("/a.png")
    outcome = fetch(url)[url]
    assert (outcome.state, outcome.reason) == ("unreachable", "connection broken")
    assert server.asked["/a.png"] == 4


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\naaaaa\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(500)) + b"\r\n",
        b"HTTP/1.1 429 Wait\r\nRetry-After: " + b"9" * 400 + b"\r\n\r\n",
        b"HTTP/1.1 503 Wait\r\nRetry-After: Mon, 99 Foo 99999 99:99:99 GMT\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe\x00\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://a\x00b/\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: \xff;;=\x00\r\n\r\nno image",
        b"",
    ],
)
def test_nonsense_from_one_server_is_its_own_trouble(server, fetch, answer):
    server.pages["/a.png"] = lambda handler: handler.wfile.write(answer)
    url, good = server.url("/a.png"), server.page("/good.png", picture())
    outcomes = fetch(url, good, retries=1)
    assert outcomes[url].state in ("dead", "refused", "unreachable")
    assert outcomes[good].state == "there"


def test_words_of_a_server_do_not_steer_the_terminal(server, fetch):
    server.pages["/a.png"] = lambda handler: handler.wfile.write(b"HTTP/1.1 404 \x1b[2J" + b"x" * 1000 + b"\r\n\r\n")
    url = server.url("/a.png")
    detail = fetch(url)[url].detail
    assert detail.startswith("\\x1b[2Jxxx")
    assert len(detail) == 300


def test_two_addresses_of_one_image_are_two_files_of_one_content(server, fetch):
    urls = [server.page("/a.png", picture(1)), server.page("/b.png", picture(1))]
    outcomes = fetch(*urls)
    assert len({outcome.sha256 for outcome in outcomes.values()}) == 1
    assert len({outcome.file for outcome in outcomes.values()}) == 2


def test_an_address_named_twice_is_asked_for_once(server, fetch):
    url = server.page("/a.png", picture())
    fetch(url, url)
    assert server.asked["/a.png"] == 1


@pytest.mark.parametrize(
    "path", ["/a b/ü?q=[1]&一", "/no-extension", "/" + "x" * 3000 + ".png", "/a%2Fb.png", "/?id=1"]
)
def test_odd_addresses_are_fetched(server, fetch, path):
    server.page(unquote(path), picture())
    url = server.url(path)
    assert fetch(url)[url].state == "there"


@pytest.fixture
def closed():
    """Return an address with a port on which no server listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}/a.png"


def test_an_address_without_an_answer_is_asked_again_in_the_next_run(server, fetch, closed):
    good = server.page("/a.png", picture())
    for _ in range(3):
        assert fetch(good, closed, retries=0)[closed].state == "unreachable"
    assert fetch(closed, retries=0)[closed].reason == "no connection"


def test_a_second_run_asks_for_nothing_that_is_settled(server, fetch):
    urls = [server.page("/a.png", picture()), server.url("/dead.png"), server.page("/page.jpg", b"<html>")]
    first = fetch(*urls)
    assert {outcome.state for outcome in first.values()} == {"there", "dead", "refused"}
    assert fetch(*urls) == first
    assert set(server.asked.values()) == {1}


def test_without_the_manifest_what_is_dead_or_refused_is_asked_for_again(server, fetch, tmp_path):
    urls = [server.page("/a.png", picture()), server.url("/dead.png"), server.page("/page.jpg", b"<html>")]
    fetch(*urls)
    server.page("/dead.png", picture(1))
    server.page("/page.jpg", picture(2))
    (tmp_path / "downloaded/manifest.jsonl").unlink()
    assert {outcome.state for outcome in fetch(*urls).values()} == {"there"}
    assert server.asked == {"/a.png": 1, "/dead.png": 2, "/page.jpg": 2}


def test_a_file_that_was_deleted_is_fetched_again(server, fetch, tmp_path):
    url = server.page("/a.png", picture())
    fetch(url)
    (tmp_path / downloaded_file(url)).unlink()
    fetch(url)
    assert (tmp_path / downloaded_file(url)).is_file()


def test_a_file_that_a_killed_run_had_not_listed_is_taken_over_and_a_damaged_one_fetched(server, fetch, tmp_path):
    urls = [server.page(f"/{number}.png", picture(number)) for number in (1, 2)]
    fetch(*urls)
    (tmp_path / "downloaded/manifest.jsonl").unlink()
    (tmp_path / downloaded_file(urls[1])).write_bytes(picture(2)[:40])
    assert {outcome.state for outcome in fetch(*urls).values()} == {"there"}
    assert server.asked == {"/1.png": 1, "/2.png": 2}


def test_a_manifest_cut_off_in_its_last_line_is_read_and_gone_on_with(server, fetch, tmp_path):
    urls = [server.page(f"/{number}.png", picture(number)) for number in (1, 2)]
    fetch(*urls)
    path = tmp_path / "downloaded/manifest.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    fetch(*urls)
    with Manifest(tmp_path / "downloaded") as read:
        assert {outcome.url for outcome in read.outcomes.values()} == set(urls)


def test_a_host_is_asked_for_no_more_than_a_few_images_at_once(server, fetch):
    n_open, numbers = 0, []

    def slowly(handler):
        nonlocal n_open
        with server.lock:
            n_open += 1
            numbers.append(n_open)
        server.ending.wait(0.03)
        with server.lock:
            n_open -= 1
        send(handler, picture())

    urls = [server.url(f"/{number}.png") for number in range(20)]
    server.pages.update({f"/{number}.png": slowly for number in range(20)})
    assert all(outcome.state == "there" for outcome in fetch(*urls, connections=10, per_host=3).values())
    assert max(numbers) == 3


def test_a_host_that_does_not_answer_does_not_hold_up_another(server, tmp_path):
    server.pages.update({f"/{number}.png": lambda handler: server.ending.wait(10) for number in range(8)})
    good = server.page("/good.png", picture()).replace("127.0.0.1", "localhost")
    urls = [server.url(f"/{number}.png") for number in range(8)] + [good]
    with closing(Downloader(images=tmp_path, connections=3, per_host=2, allow_loopback=True).run(urls)) as run:
        outcome = next(run)
    assert (outcome.url, outcome.state) == (good, "there")


def test_a_second_process_is_kept_out(server, tmp_path, fetch):
    with Manifest(tmp_path / "downloaded"), pytest.raises(DataError, match="another download is writing to it"):
        fetch(server.url("/a.png"))


def test_a_folder_that_cannot_be_written_is_said(tmp_path, fetch):
    (tmp_path / "downloaded").write_text("a file")
    with pytest.raises(DataError, match="cannot be opened"):
        fetch("http://a.example/")


def test_closing_the_run_ends_its_threads_at_once(server, tmp_path):
    server.pages["/slow.png"] = lambda handler: server.ending.wait(10)
    urls = [server.page("/a.png", picture()), server.url("/slow.png")]
    run = Downloader(images=tmp_path, allow_loopback=True).run(urls)
    assert next(run).url == urls[0]
    started = time.monotonic()
    run.close()
    assert time.monotonic() - started < 1
    assert not any(thread.name == THREAD for thread in threading.enumerate())
    assert files(tmp_path) == {"manifest.jsonl", downloaded_file(urls[0]).name}


SCRIPT = """
import sys
from pathlib import Path
from halspan.data.download.fetch import THREAD, Downloader
for outcome in Downloader(images=Path(sys.argv[1]), allow_loopback=True, connections=2).run(sys.argv[2:]):
    print(outcome.state, flush=True)
"""


def test_a_killed_download_goes_on_where_it_was(server, fetch, tmp_path):
    def slowly(handler):
        content = picture(1)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:30])
        server.ending.wait(0.05)
        handler.wfile.write(content[30:])

    urls = [server.url(f"/{number}.png") for number in range(30)]
    server.pages.update({f"/{number}.png": slowly for number in range(30)})
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, tmp_path, *urls], stdout=subprocess.PIPE, text=True)
    for _ in range(8):
        assert process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = {path.name for path in (tmp_path / "downloaded").glob("[!.]*.png")}
    assert 8 <= len(kept) < 30
    assert all((tmp_path / "downloaded" / name).read_bytes() == picture(1) for name in kept)
    assert all(outcome.state == "there" for outcome in fetch(*urls).values())
    fetched = {path: count for path, count in server.asked.items() if downloaded_file(server.url(path)).name in kept}
    assert set(fetched.values()) == {1}
    assert files(tmp_path) == {"manifest.jsonl"} | {downloaded_file(url).name for url in urls}
    assert sum(server.asked.values()) <= 32  # two were under way


@pytest.fixture
def encrypted(tmp_path):
    """Serve one image over https with a self-signed certificate; return its address and the certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate, and is not installed")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with serving() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield server.page("/a.png", picture()).replace("http:", "https:"), certificate


def test_no_connection_is_kept_after_its_image(server, fetch, encrypted, monkeypatch):
    clients, make = [], Client.__init__

    def noted(self, *arguments, **options):
        make(self, *arguments, **options)
        clients.append(self)

    monkeypatch.setattr(Client, "__init__", noted)
    server.pages["/silent.png"] = lambda handler: server.ending.wait(10)
    urls = [server.page("/a.png", picture()), server.url("/dead.png"), server.url("/silent.png"), encrypted[0]]
    states = [outcome.state for outcome in fetch(*urls, retries=0).values()]
    assert sorted(states) == ["dead", "refused", "there", "unreachable"]
    assert [len(client._streams) for client in clients] == [0]


def test_a_certificate_that_nobody_vouches_for_is_refused(fetch, encrypted):
    url, _ = encrypted
    outcome = fetch(url)[url]
    assert (outcome.state, outcome.reason) == ("refused", "certificate not valid")


def test_an_image_behind_https_is_fetched(fetch, encrypted, monkeypatch):
    url, certificate = encrypted
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert fetch(url)[url].state == "there"
