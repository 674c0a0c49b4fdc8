import re

import pytest

from pipeline import families
from pipeline.comparison import colours

HEX = re.compile("#[0-9a-f]{6}")


def brightness(colour):
    return sum(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def test_no_two_entries_of_the_palette_are_alike():
    assert len(set(colours.PALETTE)) == len(colours.PALETTE)
    assert all(HEX.fullmatch(each) for each in colours.PALETTE)


def test_each_family_has_its_own_colour_of_the_palette():
    found = [colours.colour(family) for family in families.names()]
    assert len(set(found)) == len(found)
    assert set(found) <= set(colours.PALETTE)


def test_shades_are_colours_and_all_differ():
    found = [colours.colour(family, n) for family in ("gan", "vae") for n in range(5)]
    assert len(set(found)) == 10
    assert all(re.fullmatch("#[0-9a-f]{6}", each) for each in found)
    assert colours.colour("gan") in colours.PALETTE


@pytest.mark.parametrize("place", range(1, len(colours.SHADES)))
def test_shades_are_darker_or_lighter_as_they_say(place):
    own, shaded = (brightness(colours.colour("vae", each)) for each in (0, place))
    assert (shaded > own) == (colours.SHADES[place] > 0)


def test_after_the_last_shade_the_first_comes_again():
    assert colours.colour("vae", len(colours.SHADES)) == colours.colour("vae")


def test_a_family_that_is_none_of_ours_has_a_colour_that_none_of_ours_has():
    ours = {colours.colour(family) for family in families.names()}
    assert colours.colour("external") in set(colours.PALETTE) - ours


def test_models_take_the_shades_of_their_family_in_the_order_of_params():
    named = [("vae", "vae"), ("dcgan", "gan"), ("beta_vae", "vae"), ("mine", "external")]
    assert colours.of_models(named) == {
        "vae": colours.colour("vae", 0),
        "dcgan": colours.colour("gan", 0),
        "beta_vae": colours.colour("vae", 1),
        "mine": colours.colour("external", 0),
    }
    assert colours.of_models([]) == {}


def test_models_of_other_families_move_no_colour():
    alone = colours.of_models([("a", "vae"), ("b", "vae")])
    among = colours.of_models([("x", "gan"), ("a", "vae"), ("y", "ddpm"), ("b", "vae")])
    assert alone.items() <= among.items()
