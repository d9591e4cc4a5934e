"""What TensorFlow's graph optimizer makes of attention: no operation that oneDNN does slowly.

Scale, product and bias become one operation where the bias has four axes. With a bias that several
texts share, oneDNN then takes a kernel that is hundreds of times slower than a product.
"""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import zoo

pytestmark = pytest.mark.tensorflow_only


def optimized_operations(model, token_ids):
    """The operations that a session runs for hidden states of token ids."""
    traced = tf.function(lambda ids: model.backbone(ids, training=False), autograph=False)
    frozen = convert_variables_to_constants_v2(
        traced.get_concrete_function(tf.TensorSpec([None, None], tf.int32))
    )
    ran = tf.compat.v1.RunMetadata()
    options = tf.compat.v1.RunOptions(output_partition_graphs=True)
    with tf.compat.v1.Session(graph=frozen.graph) as session:
        session.run(frozen.outputs[0].name, {frozen.inputs[0].name: token_ids}, options, ran)
    return {node.op for graph in ran.partition_graphs for node in graph.node}


@pytest.mark.parametrize("kv_heads", [2, 1])
def test_a_causal_model_joins_no_product_with_a_bias_that_texts_share(kv_heads):
    config = zoo.GPTConfig(
        13, 8, num_layers=1, num_heads=2, num_kv_heads=kv_heads, hidden_dim=8, qk_norm=False
    )
    operations = optimized_operations(zoo.build(config), np.zeros((3, 8), "int32"))
    assert any("MatMul" in name for name in operations)
    assert not [name for name in operations if "FusedBatchMatMul" in name]
