"""Networks of other libraries, as their users build them: factories for ``python -m benchmarks.zoo``.

All are built from their configurations, with random weights, small where they can be, for small inputs. What
takes more than one tensor, or makes boxes of its outputs, has a module around it that says so.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

IDS = 200
"""Words that the language models know."""


class Adapted(nn.Module):
    """A network behind a function of one tensor."""

    def __init__(self, network: nn.Module, run: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.network, self.run = network, run

    def forward(self, x: Tensor) -> Any:
        """Return what the network makes of the tensor."""
        return self.run(self.network, x)


def _shaped(model: nn.Module, *shape: int, ids: int | None = None) -> nn.Module:
    model.input_shape = shape  # type: ignore[assignment]
    if ids is not None:
        model.input_ids = ids  # type: ignore[assignment]
    return model


def _ultralytics(kind: str, name: str) -> nn.Module:
    # It writes settings where it is told to, and asks nobody.
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())
    os.environ.setdefault("YOLO_OFFLINE", "true")
    from ultralytics.nn import tasks

    return _shaped(getattr(tasks, kind)(name, verbose=False), 3, 64, 64)


def yolov8n() -> nn.Module:
    """YOLOv8, nano."""
    return _ultralytics("DetectionModel", "yolov8n.yaml")


def yolo11n() -> nn.Module:
    """YOLO11, nano."""
    return _ultralytics("DetectionModel", "yolo11n.yaml")


def yolov8n_seg() -> nn.Module:
    """YOLOv8, nano, with masks."""
    return _ultralytics("SegmentationModel", "yolov8n-seg.yaml")


def yolo11n_seg() -> nn.Module:
    """YOLO11, nano, with masks."""
    return _ultralytics("SegmentationModel", "yolo11n-seg.yaml")


def smp_unet() -> nn.Module:
    """A U-Net of one class on a ResNet."""
    from segmentation_models_pytorch import Unet

    return _shaped(Unet("resnet18", encoder_weights=None, classes=1), 3, 64, 64)


def smp_fpn() -> nn.Module:
    """A feature pyramid with group norms on a ResNet."""
    from segmentation_models_pytorch import FPN

    return _shaped(FPN("resnet18", encoder_weights=None, classes=4), 3, 64, 64)


def monai_unet() -> nn.Module:
    """Residual units, instance norms, PReLUs."""
    from monai.networks.nets import UNet

    sizes = {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)}
    return _shaped(UNet(spatial_dims=2, in_channels=1, out_channels=3, num_res_units=2, **sizes), 1, 32, 32)


def monai_attention_unet() -> nn.Module:
    """Attention gates on the skips."""
    from monai.networks.nets import AttentionUnet

    sizes = {"channels": (16, 32, 64), "strides": (2, 2)}
    return _shaped(AttentionUnet(spatial_dims=2, in_channels=1, out_channels=3, **sizes), 1, 32, 32)


def monai_unetr() -> nn.Module:
    """A transformer as the encoder of a U-Net."""
    from monai.networks.nets import UNETR

    sizes = {"feature_size": 16, "hidden_size": 64, "mlp_dim": 128, "num_heads": 4}
    model = UNETR(in_channels=1, out_channels=3, img_size=(64, 64), spatial_dims=2, **sizes)
    return _shaped(model, 1, 64, 64)


def unet2d() -> nn.Module:
    """A diffusion U-Net at one time step."""
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    return _shaped(Adapted(model, _at_a_step), 3, 16, 16)


def _at_a_step(network: Any, x: Tensor) -> Any:
    return network(x, 10)


def autoencoder_kl() -> nn.Module:
    """The autoencoder of latent diffusion."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
    )
    return _shaped(model, 3, 32, 32)


def _timm(name: str) -> nn.Module:
    from timm import create_model

    return _shaped(create_model(name, pretrained=False, num_classes=10), 3, 64, 64)


def resnest14d() -> nn.Module:
    """Split attention."""
    return _timm("resnest14d")


def cspresnet50() -> nn.Module:
    """Cross-stage partial blocks."""
    return _timm("cspresnet50")


def res2net50_14w_8s() -> nn.Module:
    """Splits into eight."""
    return _timm("res2net50_14w_8s")


def hrnet_w18_small() -> nn.Module:
    """Branches of several resolutions."""
    return _timm("hrnet_w18_small")


def mobilevit_xxs() -> nn.Module:
    """Convolutions and attention over patches."""
    return _timm("mobilevit_xxs")


def regnetz_b16() -> nn.Module:
    """Grouped convolutions and squeeze-excite."""
    return _timm("regnetz_b16")


def _of_transformers(network: str, config: str, **settings: Any) -> Any:
    import transformers

    # Settings of a base class are no arguments to a type checker.
    return getattr(transformers, network)(getattr(transformers, config)(**settings))


def llama() -> nn.Module:
    """Llama with grouped key-value heads, its cache on as it comes."""
    model = _of_transformers(
        "LlamaForCausalLM",
        "LlamaConfig",
        vocab_size=IDS,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    return _shaped(model, 12, ids=IDS)


def gpt2() -> nn.Module:
    """GPT-2, whose layers are transformers' Conv1D."""
    model = _of_transformers(
        "GPT2LMHeadModel",
        "GPT2Config",
        vocab_size=IDS,
        bos_token_id=0,
        eos_token_id=0,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=64,
    )
    return _shaped(model, 12, ids=IDS)


def t5() -> nn.Module:
    """T5, which reads the same words on both sides."""
    model = _of_transformers(
        "T5ForConditionalGeneration",
        "T5Config",
        vocab_size=IDS,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
    )
    return _shaped(Adapted(model, _on_both_sides), 12, ids=IDS)


def _on_both_sides(network: Any, ids: Tensor) -> Any:
    return network(input_ids=ids, decoder_input_ids=ids).logits


def distilbert() -> nn.Module:
    """DistilBERT's classifier."""
    model = _of_transformers(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        vocab_size=IDS,
        dim=64,
        n_layers=2,
        n_heads=4,
        hidden_dim=128,
    )
    return _shaped(model, 12, ids=IDS)


def segformer() -> nn.Module:
    """SegFormer."""
    model = _of_transformers(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 4, 8],
        decoder_hidden_size=64,
        num_labels=5,
    )
    return _shaped(model, 3, 64, 64)


def detr() -> nn.Module:
    """DETR on a small ResNet."""
    from transformers import ResNetConfig

    sizes: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
    sizes["out_features"] = ["stage2"]
    model = _of_transformers(
        "DetrForObjectDetection",
        "DetrConfig",
        use_timm_backbone=False,
        backbone=None,
        backbone_config=ResNetConfig(layer_type="basic", **sizes),
        d_model=64,
        num_queries=10,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
    )
    return _shaped(model, 3, 64, 64)


def wav2vec2() -> nn.Module:
    """Wav2Vec2 with a head for letters; its positions come from a weight-normed convolution."""
    model = _of_transformers(
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        vocab_size=32,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=(32, 32, 32),
        conv_stride=(5, 2, 2),
        conv_kernel=(10, 3, 3),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        apply_spec_augment=False,
        layerdrop=0.0,
    )
    return _shaped(model, 1600)


def whisper_encoder() -> nn.Module:
    """Whisper's encoder."""
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    model = _of_transformers(
        "WhisperModel",
        "WhisperConfig",
        vocab_size=IDS,
        **ids,
        d_model=64,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        num_mel_bins=20,
        max_source_positions=50,
    )
    return _shaped(model.get_encoder(), 20, 100)


_VISION: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


def clip_vision() -> nn.Module:
    """CLIP's vision tower."""
    model = _of_transformers("CLIPVisionModel", "CLIPVisionConfig", intermediate_size=128, **_VISION)
    return _shaped(model, 3, 32, 32)


def dinov2() -> nn.Module:
    """DINOv2 with a classifier."""
    model = _of_transformers("Dinov2ForImageClassification", "Dinov2Config", num_labels=10, **_VISION)
    return _shaped(model, 3, 32, 32)


def conformer() -> nn.Module:
    """Torchaudio's Conformer on sequences of one length."""
    from torchaudio.models import Conformer

    model = Conformer(input_dim=32, num_heads=4, ffn_dim=64, num_layers=2, depthwise_conv_kernel_size=15)
    return _shaped(Adapted(model, _of_one_length), 24, 32)


def _of_one_length(network: Any, x: Tensor) -> Any:
    return network(x, torch.full((x.shape[0],), x.shape[1]))[0]


def wav2letter() -> nn.Module:
    """Torchaudio's Wav2Letter on spectra."""
    from torchaudio.models import Wav2Letter

    return _shaped(Wav2Letter(num_classes=20, input_type="mfcc", num_features=13), 13, 60)


def fasterrcnn() -> nn.Module:
    """Faster R-CNN without what makes boxes: proposals' scores, and the second stage on fixed boxes."""
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    model = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=11)
    return _shaped(Adapted(_parts(model, ("backbone", "rpn", "roi_heads")), _two_stages), 3, 128, 128)


def _parts(model: nn.Module, names: Sequence[str]) -> nn.ModuleDict:
    return nn.ModuleDict({name: model.get_submodule(name) for name in names})


def _two_stages(parts: Any, x: Tensor) -> Any:
    features = parts["backbone"](x)
    proposals = parts["rpn"].head(list(features.values()))
    side = float(x.shape[-1])
    boxes = torch.tensor([[0.0, 0.0, side, side], [0.0, 0.0, side / 2, side / 2]]).to(x)
    heads = parts["roi_heads"]
    pooled = heads.box_roi_pool(features, [boxes] * x.shape[0], [tuple(x.shape[-2:])] * x.shape[0])
    return proposals, heads.box_predictor(heads.box_head(pooled))


def ssdlite320() -> nn.Module:
    """SSDlite's backbone and heads."""
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=11)
    return _shaped(Adapted(_parts(model, ("backbone", "head")), _one_stage), 3, 320, 320)


def _one_stage(parts: Any, x: Tensor) -> Any:
    return parts["head"](list(parts["backbone"](x).values()))


def r3d_18() -> nn.Module:
    """A ResNet over videos."""
    from torchvision.models.video import r3d_18 as video_resnet

    return _shaped(video_resnet(weights=None, num_classes=10), 3, 8, 32, 32)


def raft_small() -> nn.Module:
    """Optical flow of two images, which come as one of six channels; three rounds."""
    from torchvision.models.optical_flow import raft_small as raft

    return _shaped(Adapted(raft(weights=None), _between_images), 6, 128, 128)


def _between_images(network: Any, x: Tensor) -> Any:
    return network(x[:, :3], x[:, 3:], num_flow_updates=3)[-1]


NAMES = (
    "yolov8n", "yolo11n", "yolov8n_seg", "yolo11n_seg", "smp_unet", "smp_fpn", "monai_unet",
    "monai_attention_unet", "monai_unetr", "unet2d", "autoencoder_kl", "resnest14d", "cspresnet50",
    "res2net50_14w_8s", "hrnet_w18_small", "mobilevit_xxs", "regnetz_b16", "llama", "gpt2", "t5",
    "distilbert", "segformer", "detr", "wav2vec2", "whisper_encoder", "clip_vision", "dinov2", "conformer",
    "wav2letter", "fasterrcnn", "ssdlite320", "r3d_18", "raft_small",
)  # fmt: skip
"""Factories of this file that the benchmark runs."""
