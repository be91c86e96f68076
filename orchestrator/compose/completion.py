"""Shell completion that knows verbs. Hydra's own completer takes every word for an override."""

from collections.abc import Collection

FLAGS = ("--help", "--cfg", "--resolve", "--multirun", "--info", "--config-dir", "--config-name")

BASH = """_orchestrate() {
  local reply
  reply=$(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" orchestrate -sc query 2>/dev/null)
  COMPREPLY=($(compgen -W "$reply" -- "${COMP_WORDS[COMP_CWORD]}"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _orchestrate orchestrate"""
FISH = """function __orchestrate
  set -l line (commandline -cp)
  COMP_LINE=$line orchestrate -sc query 2>/dev/null | string split " "
end
complete -c orchestrate -a "(__orchestrate)\""""
SHELLS = {
    "bash": BASH,
    "zsh": f"autoload -U +X compinit bashcompinit && compinit && bashcompinit\n{BASH}",
    "fish": FISH,
}


def split(line: str, point: int | None) -> list[str]:
    """The words up to the cursor; the last is the one to complete, maybe empty."""
    before = line[:point]
    words = before.split()
    return words if words and not before[-1].isspace() else [*words, ""]


def matching(word: str, candidates: Collection[str]) -> str:
    """The candidates that begin with the word, as a shell wants them: with spaces between."""
    return " ".join(candidate for candidate in candidates if candidate.startswith(word))
