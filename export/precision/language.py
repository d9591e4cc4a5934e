"""How far a reduced language model is from its float32 form: KL and perplexity on fixed texts."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from export.golden.compare import Deviation
from zoo.bundle import Bundle

# Nats a token, and share of the perplexity. SmolLM2-135M in int8 moves by 0.0068 and 0.0025.
_TOLERANCES = {"KL to float32, nats a token": 0.02, "share that the perplexity moved": 0.02}
_TOKENS = 128  # of each text: logits of 150,000 ids then take 77 MB
_TEXTS = (
    "The river rose in the night, and by morning the lower fields were under water. Nobody in the "
    "village was surprised: it had rained for nine days, and the old people had said in March that "
    "it would be a wet year. They carried the chairs upstairs and waited.",
    "Water boils at 100 degrees Celsius at sea level. On a mountain of 3,000 metres the pressure "
    "of the air is lower, and it boils at about 90 degrees, so that potatoes take longer to cook.",
    "KING.\nWho knocks so late? Speak, or be gone.\n\nMESSENGER.\nMy lord, the ships are come, and "
    "with them news that will not let thee sleep.\n",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
    "    return total / len(values) if values else 0.0\n",
    "Am Abend sa\u00dfen sie vor dem Haus und z\u00e4hlten die Sterne. El ni\u00f1o pregunt\u00f3 "
    "cu\u00e1ntas hab\u00eda. Personne ne savait r\u00e9pondre.",
    "\u6625\u5929\u6765\u4e86\uff0c\u6cb3\u8fb9\u7684\u67f3\u6811\u7eff\u4e86\u3002"
    "\u5b69\u5b50\u4eec\u5728\u8349\u5730\u4e0a\u653e\u98ce\u7b5d\uff0c\u8001\u4eba\u5750\u5728"
    "\u95e8\u524d\u4e0b\u68cb\u3002",
)


def language_deviations(bundle: Bundle, reduced: Bundle) -> list[Deviation]:
    """What is judged of a reduced language model, whose golden answers are reported only.

    A golden row may read two tokens, or ids that were never trained: there a small error moves much
    that says nothing about the model.
    """
    kl, moved, count = 0.0, 0.0, 0
    for ids in _ids(bundle):
        old, new = (_log_probabilities(one, ids) for one in (bundle, reduced))
        kl += float(np.sum(np.exp(old) * (old - new)))
        places = np.arange(ids.shape[1] - 1), ids[0, 1:]
        moved += float(np.sum(old[places] - new[places]))
        count += ids.shape[1] - 1
    values = kl / count, abs(float(np.expm1(moved / count)))
    pairs = zip(_TOLERANCES.items(), values)
    return [Deviation("fixed texts", name, value, limit) for (name, limit), value in pairs]


def _ids(bundle: Bundle) -> Iterator[np.ndarray]:
    """The fixed texts as ids (1, T), T at least 2."""
    length = min(_TOKENS, bundle.model.context_length)
    for ids in bundle.tokenizer.encode(list(_TEXTS)).to_list():
        yield np.array([[bundle.lm.start_id, *ids][:length]], np.int32)


def _log_probabilities(bundle: Bundle, ids: np.ndarray) -> np.ndarray:
    # (T - 1, V), of each token but the first
    logits = bundle.model(tf.constant(ids), training=False)[0, :-1]
    return tf.nn.log_softmax(tf.cast(logits, tf.float64)).numpy()
