"""Modules of a model in the format of sentence-transformers: what its `modules.json` lists, checked and put in order.

A model reads a text (a transformer or a table of token vectors), pools the states of its tokens into one vector, and
may change that vector by further modules. A router has several chains of modules, one for each kind of text.
Nothing here loads weights.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from data_pipeline.errors import ModelError
from data_pipeline.utils import converted_errors

Route = Literal["document", "query"]
"""Kind of text, which a router may send through other modules."""

MODULES_FILE = "modules.json"
_ROUTERS = {"Router", "Asym"}
_INPUTS = {"Transformer", "StaticEmbedding"}
_WITHOUT_SETTINGS = _INPUTS | {"MLMTransformer"}  # their config.json is that of a model
_BEHIND_POOLING = {"Dense", "LayerNorm", "Normalize"}
_IGNORED = {"Dropout"}  # does nothing but in training

# Order in which the older form of the settings, a flag for each, concatenates several poolings.
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last_token",
}
_POOLING_NAMES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last_token",
}

_SPARSE = "its vectors are sparse; name it as sparse.model_name, and a dense model here"
_REFUSED = {
    "WordEmbeddings": "it looks words up in a table by a tokenizer of its own, in a format without safetensors",
    "BoW": "it counts the words of a list of its own",
    "WordWeights": "it weights the words of a list of its own",
    "CNN": "it runs a convolution over the tokens",
    "LSTM": "it runs an LSTM over the tokens",
    "WeightedLayerPooling": "it needs the states of all layers",
    "CLIPModel": "it is for images",
    "MLMTransformer": _SPARSE,
    "SpladePooling": _SPARSE,
    "SparseStaticEmbedding": _SPARSE,
    "SparseAutoEncoder": "it makes sparse vectors of dense ones",
}


@dataclass(frozen=True, slots=True)
class SentenceModule:
    """One module of a model."""

    kind: str
    """Name of its class."""
    folder: Path
    """Folder of its files."""
    settings: Mapping[str, Any]
    """Content of its `config.json`; empty for inputs, whose file describes a model of transformers."""


@dataclass(frozen=True, slots=True)
class ModuleChain:
    """The modules that a kind of text goes through."""

    input: SentenceModule
    pooling: tuple[str, ...]
    """Poolings whose results are concatenated; empty for an input that pools."""
    include_prompt: bool
    """Whether the tokens of the prompt are pooled too."""
    after: tuple[SentenceModule, ...]
    """Modules behind the pooling: Dense, LayerNorm, Normalize."""
    routed: bool
    """Whether the model sends documents and queries through different modules."""

    @property
    def description(self) -> str:
        """Modules behind the pooling that change more than the length of a vector, for the identity of the model."""
        if all(module.kind == "Normalize" for module in self.after):
            return "" if self.include_prompt else "pooled without prompt"
        names = ["pooled without prompt"] if not self.include_prompt else []
        return ", ".join(names + [_describe(module) for module in self.after])


def _describe(module: SentenceModule) -> str:
    if module.kind != "Dense":
        return module.kind
    activation = str(module.settings.get("activation_function", "Tanh")).rsplit(".", 1)[-1]
    return f"Dense to {module.settings.get('out_features')} with {activation}"


def read_chain(folder: Path, route: Route = "document") -> ModuleChain | None:
    """Read the modules of a model that a kind of text goes through.

    Args:
        folder: folder of the model.
        route: kind of text.

    Returns:
        The chain; None if the model has no `modules.json`.

    Raises:
        ModelError: a module is of a kind that this package does not run, or a file cannot be read.
    """
    if not (folder / MODULES_FILE).exists():
        return None
    flat, routed = read_modules(folder, route)
    if not flat or flat[0].kind not in _INPUTS:
        raise _refused(folder, flat[0].kind if flat else "")
    first, rest = flat[0], flat[1:]
    pooling: tuple[str, ...] = ()
    include_prompt = True
    if first.kind == "Transformer":
        if not rest or rest[0].kind != "Pooling":
            raise _refused(folder, rest[0].kind if rest else "")
        pooling, include_prompt = read_pooling(rest[0])
        rest = rest[1:]
    for module in rest:
        input_name = module.settings.get("module_input_name", "sentence_embedding")
        if module.kind not in _BEHIND_POOLING or input_name != "sentence_embedding":
            raise _refused(folder, module.kind)
    return ModuleChain(first, pooling, include_prompt, tuple(rest), routed)


def read_modules(folder: Path, route: Route) -> tuple[list[SentenceModule], bool]:
    """Read the modules of `modules.json` that a kind of text goes through, and whether there is a router among them.

    Raises:
        ModelError: a file cannot be read.
    """
    listed = read_json(folder / MODULES_FILE)
    with converted_errors((TypeError, KeyError), ModelError, f"{folder / MODULES_FILE} is not a list of modules"):
        modules = [_module(folder, str(entry["type"]), str(entry["path"])) for entry in listed]
    routed = any(module.kind in _ROUTERS for module in modules)
    flat = [inner for module in modules for inner in _routed_modules(module, route) if inner.kind not in _IGNORED]
    return flat, routed


def read_pooling(module: SentenceModule) -> tuple[tuple[str, ...], bool]:
    """Read the settings of a Pooling module.

    Returns:
        Poolings whose results are concatenated, and whether the tokens of the prompt are pooled.

    Raises:
        ModelError: a pooling is unknown.
    """
    settings = module.settings
    named = settings.get("pooling_mode")
    if named is None:
        modes = [name for flag, name in _POOLING_FLAGS.items() if settings.get(flag)]
        modes = modes or ["mean"]
    else:
        modes = [_POOLING_NAMES.get(str(name), "") for name in ([named] if isinstance(named, str) else named)]
    if not all(modes):
        raise ModelError(
            f"{module.folder} has the pooling {named!r}; expected one or several of {', '.join(_POOLING_NAMES)}"
        )
    return tuple(modes), settings.get("include_prompt") is not False


def read_text_settings(folder: Path) -> Mapping[str, Any]:
    """Read how a model's transformer reads texts: maximum length and lower case; the file has had several names."""
    for path in sorted(folder.glob("sentence_*_config.json")):
        return dict(read_json(path))
    return {}


def list_module_folders(folder: Path) -> list[Path]:
    """Folders of modules inside the folder of a model, except the model's own."""
    if not (folder / MODULES_FILE).exists():
        return []
    listed = read_json(folder / MODULES_FILE)
    with converted_errors((TypeError, KeyError), ModelError, f"{folder / MODULES_FILE} is not a list of modules"):
        modules = [_module(folder, str(entry["type"]), str(entry["path"])) for entry in listed]
    folders = [module.folder for module in modules if module.kind not in _ROUTERS]
    for router in (module for module in modules if module.kind in _ROUTERS):
        folders += [_module_folder(router.folder, str(name)) for name in _router_settings(router).get("types") or ()]
    return [inner for inner in folders if inner != folder]


def _module(root: Path, kind: str, path: str) -> SentenceModule:
    name, folder = kind.rsplit(".", 1)[-1], _module_folder(root, path)
    return SentenceModule(name, folder, {} if name in _WITHOUT_SETTINGS else dict(read_json(folder / "config.json")))


def _module_folder(root: Path, path: str) -> Path:
    """Folder of a module.

    Raises:
        ModelError: the path leaves the folder of the model.
    """
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts or "\\" in path:
        raise ModelError(f"{root / MODULES_FILE} names the folder {path!r}; expected one inside the model's folder")
    return root / relative


def _routed_modules(module: SentenceModule, route: Route) -> Iterator[SentenceModule]:
    """The module itself, or, for a router, the modules of a kind of text."""
    if module.kind not in _ROUTERS:
        yield module
        return
    settings = _router_settings(module)
    try:
        routes, types = settings["structure"], settings["types"]
        parameters = settings.get("parameters") or {}
        chosen = _choose_route(route, routes, parameters)
        for name in routes[chosen]:
            inner = _module(module.folder, str(types[name]), str(name))
            yield from _routed_modules(inner, route)
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ModelError(
            f"{module.folder} has a router whose settings name no modules for a {route}: {error!r}"
        ) from error


def _router_settings(module: SentenceModule) -> Mapping[str, Any]:
    """Settings of a router, whose file had another name as long as it was called Asym."""
    settings: Mapping[str, Any] = read_json(module.folder / "router_config.json") or module.settings
    return settings


def _choose_route(route: Route, routes: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Name of a router's chain for a kind of text, in the order in which sentence-transformers looks for it."""
    mapped = parameters.get("route_mappings") or {}
    for task in (route, None):
        for modality in ("text", None):
            if (name := mapped.get(str((task, modality)))) is not None:
                return str(name)
    for name in (route, "text"):
        if name in routes:
            return name
    return str(parameters.get("default_route") or next(iter(routes)))


def _refused(folder: Path, kind: str) -> ModelError:
    if kind in {"", "Dense"}:
        return ModelError(
            f"{folder} has no pooling between its input and {kind or 'its end'}: it gives a vector for each token "
            "(late interaction), and this package stores one for each text. Choose another model."
        )
    reason = _REFUSED.get(kind, "this package does not know it")
    return ModelError(
        f"{folder} has a sentence-transformers module {kind!r} that cannot be run here: {reason}. Choose another "
        "model, or set embedding.pooling and use a copy without modules.json."
    )


def read_json(path: Path) -> Any:
    """Content of a JSON file; `{}` if there is no such file.

    Raises:
        ModelError: the file cannot be read.
    """
    with converted_errors((OSError, ValueError), ModelError, f"{path} cannot be read"):
        return json.loads(path.read_bytes()) if path.exists() else {}
