import pytest
import torch

from modeling_cosmo.media_attention_cosmo import PADDING_SLOT, last_media_index, media_places, media_visibility


# Prime, pairwise different sizes: a transposed or mis-flattened axis cannot pass by luck.
SAMPLES, ROWS_PER_SAMPLE, LENGTH, MEDIA, TOKENS = 3, 2, 11, 5, 7


def seen_by_definition(is_placeholder, before, is_real, only_immediate):
    """The paper's rule, one scalar at a time: for each token, the slots that it may look at."""
    real = [slot for slot, flag in enumerate(is_real) if flag]
    count, rows = before, []
    for flag in is_placeholder:
        count = min(count + flag, len(real))
        so_far = real[:count]
        rows.append(so_far[-1:] if only_immediate else so_far)
    return rows


@pytest.mark.parametrize("only_immediate", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_visibility_matches_the_definition(seed, only_immediate):
    generator = torch.Generator().manual_seed(seed)
    is_placeholder = torch.rand(SAMPLES * ROWS_PER_SAMPLE, LENGTH, generator=generator) < 0.3
    is_real = torch.rand(SAMPLES, MEDIA, generator=generator) < 0.6
    before = torch.randint(0, 2, (SAMPLES * ROWS_PER_SAMPLE,), generator=generator)
    num_media = is_real.sum(-1).repeat_interleave(ROWS_PER_SAMPLE)
    index = last_media_index(is_placeholder, before, num_media)
    visibility = media_visibility(index, media_places(is_real), TOKENS, only_immediate)
    assert visibility.mask.shape == (SAMPLES, 1, ROWS_PER_SAMPLE * LENGTH, MEDIA * TOKENS)
    for row in range(SAMPLES * ROWS_PER_SAMPLE):
        sample, beam = divmod(row, ROWS_PER_SAMPLE)
        expect = seen_by_definition(
            is_placeholder[row].tolist(), before[row].item(), is_real[sample].tolist(), only_immediate
        )
        for position, slots in enumerate(expect):
            query = beam * LENGTH + position
            assert visibility.sees_any[sample, query].item() == bool(slots)
            for key in range(MEDIA * TOKENS):
                allowed = key // TOKENS in slots if slots else True  # nothing to see: a safe softmax, zeroed later
                assert visibility.mask[sample, 0, query, key].item() == allowed


def test_padding_takes_no_place():
    places = media_places(torch.tensor([[True, False, True], [False, False, False]]))
    assert places.tolist() == [[0, PADDING_SLOT, 1], [PADDING_SLOT] * 3]
