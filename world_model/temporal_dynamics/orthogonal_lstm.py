"""The recurrence of the world model: an LSTM with orthogonal recurrent blocks and a learned initial state."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from world_model.distributions import at_least_float32
from world_model.layers import check_sizes


class OrthogonalLSTM(nn.Module):
    """One step of a stacked LSTM: inputs [N, I], hidden [N, L, H], cell [N, L, H] -> next hidden, next cell.

    Recurrent matrices are orthogonal per gate block (`orthogonal=False`: Xavier), input matrices Xavier, biases 0 but
    for the forget gate's 1. `initial(batch)` is the learned reset state (hidden starts at 0; the cell is 0). Raises
    ValueError for sizes below 1 and for inputs of another width.
    """

    def __init__(self, input_dim: int, hidden_dim: int, num_layers: int = 1, orthogonal: bool = True) -> None:
        super().__init__()
        check_sizes(input_dim=input_dim, hidden_dim=hidden_dim, num_layers=num_layers)
        self.input_dim, self.hidden_dim = input_dim, hidden_dim
        self.cells = nn.ModuleList(
            nn.LSTMCell(input_dim if layer == 0 else hidden_dim, hidden_dim) for layer in range(num_layers)
        )
        self.initial_hidden = nn.Parameter(torch.zeros(num_layers, hidden_dim))
        for cell in self.cells:
            assert isinstance(cell, nn.LSTMCell)
            for block in cell.weight_ih.data.chunk(4):  # gates i, f, g, o
                nn.init.xavier_uniform_(block)
            for block in cell.weight_hh.data.chunk(4):
                (nn.init.orthogonal_ if orthogonal else nn.init.xavier_uniform_)(block)
            nn.init.zeros_(cell.bias_ih)
            nn.init.zeros_(cell.bias_hh)
            nn.init.ones_(cell.bias_ih.data[hidden_dim : 2 * hidden_dim])

    def initial(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return the reset state of `batch` sequences: hidden [N, L, H], cell [N, L, H]."""
        hidden = self.initial_hidden.expand(batch, -1, -1)
        return hidden, torch.zeros_like(hidden)

    def forward(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        if inputs.shape != (len(hidden), self.input_dim):
            expected = (len(hidden), self.input_dim)
            raise ValueError(f"inputs: got shape {tuple(inputs.shape)}, expected {expected}")
        hiddens, cells = [], []
        for layer, weights in enumerate(self.cells):
            assert isinstance(weights, nn.LSTMCell)
            gates = linear(inputs, weights.weight_ih, weights.bias_ih)
            gates = gates + linear(hidden[:, layer], weights.weight_hh, weights.bias_hh)
            # nn.LSTMCell would keep the state itself in half precision under autocast on a GPU
            write, keep, new, show = at_least_float32(gates).chunk(4, -1)  # i, f, g, o
            next_cell = keep.sigmoid() * cell[:, layer] + write.sigmoid() * new.tanh()
            inputs = show.sigmoid() * next_cell.tanh()
            hiddens.append(inputs)
            cells.append(next_cell)
        return torch.stack(hiddens, 1), torch.stack(cells, 1)
