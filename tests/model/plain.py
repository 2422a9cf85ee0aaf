"""The encoder of `model.ernie_m` in plain `paddle.nn`, with the same names: what it is compared with."""

import paddle
from paddle import nn

from model.ernie_m import EncoderOutput, absolute_positions


class PlainErnieM(nn.Layer):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embeddings = nn.Layer()
        self.embeddings.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embeddings.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.embeddings.layer_norm = nn.LayerNorm(config.hidden_size)
        layer = nn.TransformerEncoderLayer(
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            dropout=0.0,
            activation="gelu",
        )
        self.encoder = nn.TransformerEncoder(layer, config.num_hidden_layers)
        self.pooler = nn.Layer()
        self.pooler.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, input_ids):
        x = self.embeddings.word_embeddings(input_ids)
        x += self.embeddings.position_embeddings(absolute_positions(input_ids, 1))
        hidden_states = [self.embeddings.layer_norm(x)]
        real = input_ids != 1
        seen = (real.unsqueeze(2) & real.unsqueeze(1)) | paddle.eye(input_ids.shape[1]).astype("bool")
        for layer in self.encoder.layers:
            hidden_states.append(layer(hidden_states[-1], seen.unsqueeze(1)))
        pooled = paddle.tanh(self.pooler.dense(hidden_states[-1][:, 0]))
        return EncoderOutput(hidden_states[-1], pooled, tuple(hidden_states))
