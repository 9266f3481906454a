"""The dataset in a training loop: a linear probe on the sample's subjects, then a search.

Needs what `make run` makes (the bundled sample). Another folder: `example_usage.py DATA_DIR`.
"""

import sys

import torch
from torch import nn

from data_pipeline import DataPipelineError, ELMDataset

EPOCHS = 60


def labels_of(batch: dict, subjects: list[str]) -> torch.Tensor:
    """Number of each row's subject."""
    return torch.tensor([subjects.index(row["subject"]) for row in batch["metadata"]])


def train_probe(train: ELMDataset, subjects: list[str]) -> nn.Linear:
    """Fit one linear layer from vector to subject."""
    torch.manual_seed(0)
    probe = nn.Linear(train.dim, len(subjects))
    optimizer = torch.optim.Adam(probe.parameters(), lr=0.05)
    loader = train.get_dataloader(batch_size=32, shuffle=True, seed=0)
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in loader:
            loss = nn.functional.cross_entropy(probe(batch["embedding"]), labels_of(batch, subjects))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch["text"])
        if epoch in (0, EPOCHS // 2, EPOCHS - 1):
            print(f"epoch {epoch + 1:2}: mean loss {total / len(train):.3f}")
    return probe


@torch.inference_mode()
def accuracy(probe: nn.Linear, dataset: ELMDataset, subjects: list[str]) -> float:
    """Share of a split's paragraphs whose subject is found."""
    batch = dataset.get_batch(range(len(dataset)))
    return (probe(batch["embedding"]).argmax(dim=1) == labels_of(batch, subjects)).float().mean().item()


def main() -> None:
    """Train the probe, print its accuracy on articles it has not seen, and search."""
    data_dir = sys.argv[1] if len(sys.argv) > 1 else None
    train, val, test = (ELMDataset(data_dir, split=split) for split in ("train", "val", "test"))
    if "subject" not in train.metadata.columns:
        raise SystemExit(f"{train.processed_dir} has no column `subject`; this example is for the bundled sample")
    subjects = sorted(train.metadata["subject"].unique())
    print(
        f"{len(train)} paragraphs for training, {len(val)} and {len(test)} of other articles; {len(subjects)} subjects"
    )

    probe = train_probe(train, subjects)
    held_out = len(val) + len(test)
    found = accuracy(probe, val, subjects) * len(val) + accuracy(probe, test, subjects) * len(test)
    print(f"accuracy of the linear probe on unseen articles: {found / held_out:.1%} ({held_out} paragraphs)")

    halfway = train.interpolate_embeddings(0, len(train) - 1, alpha=0.5, method="slerp")
    print(f"halfway between the first and the last paragraph: a vector of length {halfway.norm():.3f}")

    for hit in train.search("how do animals keep warm in winter?", k=3):
        print(f"{hit['score']:.3f}  {hit['metadata']['title']}: {hit['text'][:70]}...")


if __name__ == "__main__":
    try:
        main()
    except DataPipelineError as error:
        sys.exit(f"error: {error}")
