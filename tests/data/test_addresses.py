"""Tests of web addresses: how they are read, where they may lead, and what their files are called."""

import pytest

from halspan.data.download.addresses import downloaded_file, is_permitted, parse_address


@pytest.mark.parametrize(
    "ip",
    [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "fc00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "::10.0.0.1",
    ],
)
def test_an_address_that_is_not_of_the_public_internet_is_not_permitted(ip):
    assert not is_permitted(ip, allow_loopback=False)
    assert not is_permitted(ip, allow_loopback=True)


@pytest.mark.parametrize("ip", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"])
def test_this_machine_is_permitted_only_where_asked_for(ip):
    assert not is_permitted(ip, allow_loopback=False)
    assert is_permitted(ip, allow_loopback=True)


@pytest.mark.parametrize("ip", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_is_permitted(ip):
    assert is_permitted(ip, allow_loopback=False)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://a.example", "/"),
        ("http://a.example/a b.jpg", "/a%20b.jpg"),
        ("http://a.example/a%20b.jpg", "/a%20b.jpg"),
        ("http://a.example/ä/一.jpg?q=ü b#part", "/%C3%A4/%E4%B8%80.jpg?q=%C3%BC%20b"),
        ('http://a.example/"<>\\^`{}.jpg', "/%22%3C%3E%5C%5E%60%7B%7D.jpg"),
    ],
)
def test_odd_characters_are_encoded_once(url, target):
    assert parse_address(url).target == target


def test_a_host_beyond_ascii_is_encoded_and_a_port_kept():
    address = parse_address("HTTPS://Bücher.example:8443/")
    assert (address.scheme, address.host, address.port) == ("https", "xn--bcher-kva.example", 8443)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a.example/1.jpg",
        "file:///etc/passwd",
        "data:,",
        "http:///1.jpg",
        "http://[",
        "http://a:port/",
        "http://a..example/",
        f"http://{'a' * 70}.example/",
    ],
)
def test_what_is_no_web_address_is_refused(url):
    with pytest.raises(ValueError):  # noqa: PT011 (many kinds, all of them ValueErrors)
        parse_address(url)


@pytest.mark.parametrize(
    "url",
    [
        "x",
        "http://[",
        "http://a.example/",
        "http://a.example/../../etc/passwd",
        "http://a.example/%2e%2e%2f%00.jpg",
        "http://a.example/.hidden",
        "http://a.example/一.jpg?a/b",
        "http://a.example/" + "long" * 1000 + ".jpg",
    ],
)
def test_a_downloaded_files_name_is_short_visible_and_in_its_folder(url):
    path = downloaded_file(url)
    assert path.parent.as_posix() == "downloaded"
    assert path.name.isascii()
    assert path.name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    assert not path.name.startswith(".")
    assert len(path.name) <= 100


def test_a_downloaded_files_name_keeps_what_can_be_read_of_the_addresses():
    assert downloaded_file("http://a.example/val2017/000139.JPG?x=1").name.startswith("000139-")
    assert downloaded_file("http://a.example/val2017/000139.JPG?x=1").suffix == ".jpg"
    assert downloaded_file("http://a.example/picture.php?id=1").suffix == ""


def test_addresses_that_end_alike_have_files_of_their_own():
    urls = ["http://a.example/1.jpg", "http://b.example/1.jpg", "http://a.example/1.jpg?", "https://a.example/1.jpg"]
    assert len({downloaded_file(url) for url in urls}) == len(urls)
