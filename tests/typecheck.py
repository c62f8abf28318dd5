"""Run-time checks of all annotations: shapes by jaxtyping, types by beartype."""

from beartype import BeartypeConf, beartype

# As in static typing, an int is welcome where a float is asked for.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
