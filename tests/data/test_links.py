"""Tests of the images that a corpus links to: which are at hand, and whether readers find those downloaded."""

import json

import pytest
from misbehaving_server import picture, serving

from halspan.core.errors import DataError
from halspan.data.download.addresses import downloaded_file
from halspan.data.download.fetch import Downloader
from halspan.data.download.links import find_links
from halspan.data.readers.alignbench import AlignBench
from halspan.data.readers.jsonl import JsonLines

URL = "http://a.example/val2017/139.jpg"
OTHER = "http://b.example/val2014/139.jpg"


@pytest.fixture
def linking(tmp_path, row, write_lines):
    """Return a file of AlignBench rows, each a caption of its own that only links to its image."""

    def linking(*urls):
        rows = [row(image_path_in_repo=None, image_name=None, image_url=url, caption="A man.") for url in urls]
        return write_lines(tmp_path / "halcap_bench.jsonl", rows)

    return linking


@pytest.fixture
def server():
    with serving() as server:
        yield server


def test_each_address_is_listed_once(linking):
    links = find_links(linking(URL, URL, OTHER), "alignbench")
    assert (links.to_fetch, links.at_hand, links.n_malformed) == ((URL, OTHER), (), 0)


def test_an_image_of_the_addresss_own_name_is_at_hand_unless_two_addresses_end_in_it(linking, paint, tmp_path):
    paint(tmp_path / "139.jpg")
    assert find_links(linking(URL), "alignbench").at_hand == (URL,)
    assert find_links(linking(URL, OTHER), "alignbench").at_hand == ()


def test_an_image_of_the_release_is_at_hand_though_it_has_an_address(tmp_path, paint, write_lines, row):
    paint(tmp_path / "images/1.png")
    file = write_lines(tmp_path / "halcap_bench.jsonl", [row(image_url=URL)])
    assert find_links(file, "alignbench").at_hand == (URL,)


def test_malformed_rows_are_counted(linking):
    file = linking(URL)
    file.write_text(file.read_text() + "{\n" + '{"model": "llava"}\n')
    links = find_links(file, "alignbench")
    assert (links.to_fetch, links.n_malformed) == ((URL,), 2)


def test_what_was_downloaded_is_what_the_reader_finds(server, linking, tmp_path):
    server.page("/a/1.png", picture(1))
    server.page("/b/1.png", picture(2))
    urls = [server.url("/a/1.png"), server.url("/b/1.png")]
    file = linking(*urls)
    list(Downloader(images=tmp_path, allow_loopback=True).run(find_links(file, "alignbench").to_fetch))
    corpus = AlignBench(path=file).load()
    assert [corpus.image_path(caption).read_bytes() for caption in corpus.captions] == [picture(1), picture(2)]
    assert [caption.image for caption in corpus.captions] == [str(downloaded_file(url)) for url in urls]
    assert [caption.id for caption in corpus.captions] == [f"llava/{url}" for url in urls]


def test_what_was_downloaded_to_another_folder_is_found_there(server, linking, tmp_path):
    photos = tmp_path / "photos"
    file = linking(server.page("/1.png", picture(1)))
    list(Downloader(images=photos, allow_loopback=True).run(find_links(file, "alignbench", images=photos).to_fetch))
    corpus = AlignBench(path=file, images=photos).load()
    assert corpus.image_path(corpus.captions[0]).parent == photos / "downloaded"


def test_a_dead_image_costs_its_caption_only(server, linking, tmp_path):
    file = linking(server.page("/1.png", picture(1)), server.url("/dead.png"))
    list(Downloader(images=tmp_path, allow_loopback=True).run(find_links(file, "alignbench").to_fetch))
    corpus = AlignBench(path=file, min_images=0.5).load()
    assert (len(corpus.captions), corpus.skipped) == (1, {"captions without their image": 1})


def test_an_address_too_long_for_a_file_name_is_a_missing_image(linking):
    with pytest.raises(DataError, match="0 of 1 images can be used"):
        AlignBench(path=linking("http://a.example/" + 300 * "x")).load()


def test_canonical_captions_may_have_an_address_for_an_image(server, tmp_path, record, write_lines):
    url = server.page("/1.png", picture(1))
    file = write_lines(tmp_path / "captions.jsonl", [record(image=url), record(id="a/2", image="1.png")])
    assert find_links(file, "jsonl").to_fetch == (url,)
    list(Downloader(images=tmp_path, allow_loopback=True).run([url]))
    (tmp_path / "1.png").write_bytes(picture(2))
    corpus = JsonLines(path=file).load()
    assert [corpus.image_path(caption).read_bytes() for caption in corpus.captions] == [picture(1), picture(2)]
    assert json.loads(file.read_text().splitlines()[0])["image"] == url
