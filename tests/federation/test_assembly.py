from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image
from tiny import dataset

from silva.data.config import DataConfig
from silva.data.sources import EncodedSource
from silva.federation.assembly import deal
from silva.federation.run import Progress

CONFIG = DataConfig(
    partition="patho_grouped(2)", clients=4, unseen=0.25, samples_per_client=8, test_per_client=4
)


def test_images_that_are_read_before_the_run_are_heard_of() -> None:
    plain, heard = dataset(), list[Progress]()
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    encoded = EncodedSource.from_list([stream.getvalue()] * len(plain))
    dealt = deal(CONFIG, 0, replace(plain, source=encoded), heard.append)
    rows = {row for client in dealt.clients for row in (*client.train, *client.test)}
    assert heard == [Progress("images", len(rows), len(rows))]
    assert [c.name for c in deal(CONFIG, 0, plain, heard.append).clients] == [
        c.name for c in dealt.clients
    ]
    assert len(heard) == 1
