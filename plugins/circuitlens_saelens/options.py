"""The options of `transformerlens`; `SAELensAdapter.load` says what each stands for where it is left out."""

from circuitlens.options import AdapterOption

DEVICES = ("auto", "cpu", "cuda", "mps")
NEURONS = "neurons"
"""What is given for SAEs to have the neurons of MLPs in their place."""
DTYPES = ("float32", "float64", "bfloat16", "float16")

OPTIONS = (
    AdapterOption(
        "saes",
        "A SAE-Lens release, RELEASE/SAE_ID (* stands for anything), or a folder of SAEs; or several; or neurons.",
        several=True,
        flag="--sae",
        default="gpt2-small-res-jb",
    ),
    AdapterOption("layers", "Layers whose SAEs are taken: 8, 0-11 or 0,4,8-10; by default all.", default="all"),
    AdapterOption("model", "The model's name on the hub, or its folder."),
    AdapterOption("device", "Where to compute.", choices=DEVICES),
    AdapterOption("dtype", "Numbers to compute in.", choices=DTYPES),
    AdapterOption(
        "prepend_bos", "Begin prompts with the BOS token; by default as the SAEs ask.", type=bool, flag="--bos"
    ),
)
