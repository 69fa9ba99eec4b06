"""The networks that `zoo.py` takes, and what each of them reads."""

from __future__ import annotations

SIDE = 128  # pixels of a picture's side
WINDOWED = {"maxvit_t": 224}  # windows of 7 have to fit in every stage
TIMM = (
    "convnext_atto", "efficientnet_b0", "regnetx_002", "resnest14d", "mixer_s32_224", "vit_tiny_patch16_224",
    "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "beit_base_patch16_224", "cait_xxs24_224", "coat_tiny",
    "crossvit_tiny_240", "levit_128s", "mobilevit_xxs", "edgenext_xx_small", "ghostnet_050", "hrnet_w18_small", "dla46_c",
    "densenet121", "nf_regnet_b0", "mobilenetv4_conv_small", "xcit_nano_12_p16_224", "poolformer_s12", "maxvit_nano_rw_256",
)  # fmt: skip
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
HUGGINGFACE = {
    "bert": SMALL,
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    "roberta": SMALL,
    "albert": {**SMALL, "embedding_size": 32},
    "electra": {**SMALL, "embedding_size": 32},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "pad_token_id": 0},
    "mobilebert": {**SMALL, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "mpnet": SMALL,
    "deberta-v2": SMALL,
    "opt": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128, "word_embed_proj_dim": 64,
            "max_position_embeddings": 64},
}  # fmt: skip
VOCABULARY, LENGTH = 200, 24


def listed(library):
    """The names of a library's networks, of torchvision the smallest first, by the parameters of their published weights."""
    if library != "torchvision":
        return list(TIMM if library == "timm" else HUGGINGFACE)
    import torchvision

    models = torchvision.models
    names = [name for name in models.list_models(module=models) if not name.startswith("raft")]
    return sorted(names, key=lambda name: next(iter(models.get_model_weights(name))).meta["num_params"])


def pictures(side):
    """A signature of pictures and one of 1000 classes."""
    from compress_cli.data.signature import Head, Input, Signature

    image = Input(shape=(3, side, side), mean=(124.0, 116.0, 104.0), deviation=(58.0, 57.0, 57.0))
    return Signature(inputs={"image": image}, heads={"logits": Head(shape=(1000,))})


def described(library, name):
    """The model, its signature, and eight samples of each input."""
    import torch

    from compress_cli.data.signature import Head, Input, Signature

    generator = torch.Generator().manual_seed(0)
    if library == "huggingface":
        from compress_cli.networks.models.huggingface import Huggingface

        config = {"model_type": name, **HUGGINGFACE[name]}
        ids = Input(shape=(LENGTH,), dtype="int64", values=VOCABULARY)
        mask = Input(shape=(LENGTH,), dtype="int64", values=2)
        signature = Signature(inputs={"ids": ids, "mask": mask}, heads={"logits": Head(shape=(10,))})
        samples = torch.randint(3, VOCABULARY, (8, LENGTH), generator=generator)
        lengths = torch.arange(8)[:, None] + LENGTH - 7  # the first sentence is the shortest
        there = (torch.arange(LENGTH) < lengths).long()
        return Huggingface(architecture="sequence_classification", config=config), signature, [samples * there, there]
    if library == "timm":
        import timm

        from compress_cli.networks.models.timm import Timm

        model, published = Timm(name=name), timm.get_pretrained_cfg(name)
        side = published.input_size[-1] if published.fixed_input_size else SIDE
    else:
        from compress_cli.networks.models.torchvision import Torchvision

        model = Torchvision(name=name)
        patch = int(name.rpartition("_")[2]) if name.startswith("vit_") else 1
        side = WINDOWED.get(name, -(-SIDE // patch) * patch)  # a multiple of the patch's side
    return model, pictures(side), [torch.rand(8, 3, side, side, generator=generator) * 255]
