"""Chat templates render as transformers renders them, and can do nothing else."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from transformers import PreTrainedTokenizerFast

from atom_edge.errors import BundleError, MissingExtraError
from atom_edge.reference import checkpoint_path
from atom_edge.runtimes import template
from atom_edge.runtimes.template import ChatTemplate

CHATML = """\
{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{% endif %}
"""
LLAMA_2 = """\
{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Roles must alternate.') }}{% endif %}\
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] + ' [/INST]' }}\
{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"""
TRICKS = """\
{%- set found = namespace(user=false) %}{% for message in messages %}
{% if message.role == 'assistant' %}{% continue %}{% endif %}
{% set found.user = true %}{{ message | tojson }}
{% endfor %}{{ found.user }} {{ strftime_now('%Y') }} {{ pad_token }}"""
GENERATION = """\
{% for message in messages %}{% set word = 'x' %}{% if message.role == 'assistant' %}
{% generation %}{% set word = 'y' %}{{ message.content }}{% endgeneration %}
{% else %}{{ message.content }}{% endif %}{{ word }}{% endfor %}"""
OPTIONS = """\
{% set tool = {'b': 'Käse', 'a': [1, 2]} %}{{ tool | tojson(ensure_ascii=True) }}
{{ tool | tojson(separators=(',', ':'), sort_keys=True) }}{{ tool | tojson(indent=2) }}
{{ tools is none }}{{ documents is none }}{% if tools %}tools{% endif %}"""
TALKS = [
    [{"role": "user", "content": "Hello"}],
    [
        {"role": "user", "content": "Käse <b>\n"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": '"why" {{ 7 * 7 }}'},
    ],
]
TOKENS = {"bos_token": "<|bos|>", "eos_token": {"content": "<|eos|>"}, "pad_token": "<|pad|>"}


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("source", [CHATML, LLAMA_2, TRICKS, GENERATION, OPTIONS])
def test_it_renders_as_transformers_does(source: str, talk: list[dict[str, str]]) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint_path())
    expected = tokenizer.apply_chat_template(
        talk, chat_template=source, add_generation_prompt=True, tokenize=False
    )
    assert ChatTemplate(source, TOKENS).render(talk) == expected


def test_the_year_is_this_year() -> None:
    assert str(datetime.now().year) in ChatTemplate(TRICKS, TOKENS).render(TALKS[0])


def test_what_the_template_refuses_is_an_error() -> None:
    with pytest.raises(BundleError, match=r"template failed: Roles must alternate\."):
        ChatTemplate(LLAMA_2, TOKENS).render([{"role": "assistant", "content": "me first"}])


def test_a_template_that_is_no_jinja_is_an_error() -> None:
    with pytest.raises(BundleError, match="template cannot be read"):
        ChatTemplate("{% for %}", {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception.__globals__.json }}",
        "{% include '/etc/passwd' %}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(BundleError, match="template failed"):
        ChatTemplate(source, {}).render([{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ '' }}{% endfor %}{% endfor %}",
        "{{ 2 ** (2 ** 40) }}",
        "{{ messages[0].content * 2 ** 40 }}",
        "{{ lipsum(99999999) }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
        "{% endfor %}{{ ns.x }}",
        "{{ '%999999999999d' % 1 }}{{ 'x'.center(9999999999) }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ 'x' * 20000000 }}",
    ],
)
def test_time_and_memory_are_bounded(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "TIME_LIMIT", 1.0)
    begun = time.monotonic()
    with pytest.raises(BundleError, match=r"template (failed|cannot be read)"):
        ChatTemplate(source, {}).render([{"role": "user", "content": "x"}])
    assert time.monotonic() - begun < 15


def test_a_template_that_took_too_long_may_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "TIME_LIMIT", 2.0)
    slow = ChatTemplate(
        "{% if messages | length > 1 %}{% for a in range(9999) %}{% for b in range(9999) %}"
        "{{ '' }}{% endfor %}{% endfor %}{% endif %}fine",
        {},
    )
    message = {"role": "user", "content": "x"}
    with pytest.raises(BundleError, match="took more than 2 seconds"):
        slow.render([message, message])
    assert slow.render([message]) == "fine"


def test_its_process_ends_with_it() -> None:
    made = ChatTemplate(CHATML, {})
    process = made._process
    assert process is not None
    assert process.poll() is None
    del made
    assert process.poll() is not None


def test_threads_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = ChatTemplate("{{ messages[0].content }}", {})
    with ThreadPoolExecutor(8) as pool:
        texts = [str(number) for number in range(200)]
        rendered = pool.map(lambda text: shared.render([{"role": "user", "content": text}]), texts)
        assert list(rendered) == texts


def test_without_jinja_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[chat\]'"):
        ChatTemplate(CHATML, {})


@pytest.mark.parametrize("token", [{}, {"x": 1}, {"content": None}, [], 5, True])
def test_a_special_token_that_is_no_text_is_refused(token: object) -> None:
    with pytest.raises(BundleError, match=r"tokenizer_config.json: bos_token: it must be a text"):
        ChatTemplate("{{ bos_token }}", {"bos_token": token})
