"""From settings to a process that serves image classifiers, until a signal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import torch

from silva.adapters.forest import Forest
from silva.adapters.ledger import OBJECTS
from silva.data.labelled import LabelledFiles
from silva.models.backbone import Backbone
from silva.models.mixed_vit import pack_vit
from silva.models.registry import load_backbone
from silva.serving.api.image_app import create_image_app
from silva.serving.api.keys import KeyRing
from silva.serving.api.serve import listen, serve
from silva.serving.backend import ModelCard
from silva.serving.config import ServeConfig
from silva.serving.engine.tiers import Tiers
from silva.serving.forest_cards import served_forest
from silva.serving.images.classifier import Classifier
from silva.serving.images.service import ImageService
from silva.serving.images.settings import check_settings
from silva.serving.launch import LaunchConfig, admin_ring, api_keys
from silva.serving.live_forest import LiveForest
from silva.serving.newcomers import LeafTuner, Newcomers, Prober
from silva.serving.process_name import show_as
from silva.serving.tunings import Tunings


def launch_images(
    config: LaunchConfig,
    prober: Callable[[Backbone], Prober[LabelledFiles]],
    tuner: LeafTuner[LabelledFiles],
    announce: Callable[[str], None] = print,
) -> None:
    """Serve a Vision Transformer, and the clients of a forest grown on it, until SIGTERM or SIGINT.

    `prober` and `tuner` serve clients who join by their examples (`silva.federation.sent`).
    `announce` gets the address once the server is ready. Raises a SilvaError before it listens to
    anybody when a setting, the port, the model or the forest is not usable.
    """
    http, serving = config.http, config.serve
    check_settings(serving)
    keys, admins = KeyRing(api_keys(http)), admin_ring(http)
    forest = None
    if serving.forest:
        forest = served_forest(Path(serving.forest).expanduser(), images=True)
    if serving.threads:
        torch.set_num_threads(serving.threads)
    with listen(http.host, http.port) as sock:
        backbone = load_backbone(config.model)
        base = ModelCard(config.name or Path(config.model).stem, 0, 0)
        live = None if forest is None else LiveForest(forest, base, backbone.digest)
        service = ImageService(
            make_classifier(backbone, serving, forest),
            live.cards if live else [base],
            most_waiting=serving.most_waiting,
            unknown_client=serving.unknown_client,
        )
        app = create_image_app(
            service,
            forest.class_names if forest else (),
            backbone.class_names,
            http.limits,
            keys=keys,
            admin_keys=admins,
            forest=live,
            newcomers=None if live is None else newcomers(live, service, prober(backbone), tuner),
        )

        async def run() -> None:
            await service.open()
            show_as("front")
            await serve(app, service, sock, grace_s=serving.grace_s, announce=announce)

        asyncio.run(run())


def newcomers(
    live: LiveForest,
    service: ImageService,
    prober: Prober[LabelledFiles],
    tuner: LeafTuner[LabelledFiles],
) -> Newcomers[LabelledFiles]:
    """Who takes clients by their examples; their leaves are tuned while `service` is not busy."""
    return Newcomers(live, prober, Tunings(live, tuner, service.busy, service.offer))


def make_classifier(backbone: Backbone, config: ServeConfig, forest: Forest | None) -> Classifier:
    """The classifier over a backbone, with the adapters of a forest."""
    if forest is None:
        return Classifier(backbone)
    objects = forest.folder.absolute() / OBJECTS
    tiers = Tiers(objects, lambda tier: pack_vit(tier, backbone.model), config.adapter_bytes)
    return Classifier(backbone, tiers)
