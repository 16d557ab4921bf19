"""What people say to their homes: the sentence templates of home-assistant-intents, written out at random.

    [<set>] [the] {area} light[s] to {brightness}( percent|%)        [may be left out]  (one|of these)  (in;any order)  {list}  <rule>

Lists of values and ranges of numbers are the package's. What a home itself brings along, the names of its rooms and things and whatever
may be said freely, is filled in from the few words below.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from data.sources.builtin import installed

EACH = 120  # utterances of an intent
LEAST = 20  # an intent with fewer different ones is left out
TRIES = 8  # draws for each utterance that is wanted
TOKEN = re.compile(r"[\[\]()|;]|\{[^}]*\}|<[^>]*>|[^\[\]()|;{}<>]+")
THINGS = {
    "en": {
        "light": "desk lamp|ceiling light|reading lamp|hall light",
        "switch": "coffee maker|Christmas tree|heater|water pump",
        "fan": "ceiling fan|desk fan|extractor",
        "cover": "left blinds|garage door|patio shutter|bedroom curtains",
        "lock": "front door|back door|garden gate",
        "climate": "thermostat|air conditioner|heat pump",
        "media_player": "TV|kitchen speaker|record player|soundbar",
        "valve": "garden valve|water main|sprinkler valve",
        "vacuum": "robot|vacuum cleaner|Dusty",
        "lawn_mower": "mower|robot mower|Shaun",
        "scene": "movie night|good morning|dinner party",
        "script": "bedtime routine|holiday mode|watering",
        "button": "doorbell|restart button",
        "todo": "packing|weekend jobs|school things",
        "person": "Anna|Tom|grandma",
        "weather": "Berlin|Lisbon|home",
        "binary_sensor": "phone charger|motion sensor|smoke detector|back window",
        "sensor": "outdoor sensor|power meter|rain gauge",
    },
    "es": {
        "light": "lámpara del escritorio|luz del techo|lámpara de pie|luz del pasillo",
        "switch": "cafetera|árbol de Navidad|calefactor|bomba de agua",
        "fan": "ventilador del techo|ventilador de mesa|extractor",
        "cover": "persiana izquierda|puerta del garaje|toldo del patio|cortina del dormitorio",
        "lock": "puerta principal|puerta trasera|verja del jardín",
        "climate": "termostato|aire acondicionado|bomba de calor",
        "media_player": "televisión|altavoz de la cocina|tocadiscos|barra de sonido",
        "valve": "válvula del jardín|llave de paso|válvula de riego",
        "vacuum": "robot|aspiradora|Pelusa",
        "scene": "noche de cine|buenos días|cena con amigos",
        "script": "rutina de noche|modo vacaciones|riego",
        "todo": "maleta|tareas del sábado|cosas del colegio",
        "person": "Ana|Tomás|abuela",
        "weather": "Madrid|Lisboa|casa",
        "binary_sensor": "cargador del móvil|sensor de movimiento|detector de humo|ventana trasera",
        "sensor": "sensor exterior|contador de luz|pluviómetro",
    },
    "de": {
        "light": "Schreibtischlampe|Deckenlampe|Leselampe|Flurlicht",
        "switch": "Kaffeemaschine|Weihnachtsbaum|Heizlüfter|Wasserpumpe",
        "fan": "Deckenventilator|Tischventilator|Abluft",
        "cover": "linke Jalousie|Garagentor|Terrassenrollo|Schlafzimmervorhang",
        "lock": "Haustür|Hintertür|Gartentor",
        "climate": "Thermostat|Klimaanlage|Wärmepumpe",
        "media_player": "Fernseher|Küchenlautsprecher|Plattenspieler|Soundbar",
        "valve": "Gartenventil|Haupthahn|Bewässerungsventil",
        "vacuum": "Roboter|Staubsauger|Krümel",
        "lawn_mower": "Mäher|Mähroboter|Schaf",
        "scene": "Filmabend|Guten Morgen|Abendessen",
        "script": "Abendroutine|Urlaubsmodus|Bewässerung",
        "button": "Türklingel|Neustart",
        "todo": "Packliste|Hausarbeit|Schulsachen",
        "person": "Anna|Tom|Oma",
        "weather": "Berlin|Lissabon|Zuhause",
        "binary_sensor": "Ladegerät|Bewegungsmelder|Rauchmelder|hinteres Fenster",
        "sensor": "Außensensor|Stromzähler|Regenmesser",
    },
}
SAID = {
    "en": {
        "area": "kitchen|living room|bedroom|bathroom|garage|office|hallway|nursery|garden",
        "floor": "ground|first|second|upper",
        "zone": "home|work|school|the gym",
        "shopping_list_item": "milk|two loaves of bread|apples|washing powder|olive oil|batteries|tea|rice",
        "todo_list_item": "water the plants|call the plumber|pay the rent|wash the car|book a table|clean the windows",
        "timer_name": "pizza|pasta|laundry|tea|nap|eggs",
        "timer_command": "open the garage door|turn off the lights|close the blinds|start the vacuum",
        "search_query": "jazz for the evening|the four seasons|songs of the sea|birds of the forest|rainy day piano",
        "message": "dinner is ready|we leave in ten minutes|please come downstairs|the film begins|your bath is ready",
    },
    "es": {
        "area": "cocina|salón|dormitorio|baño|garaje|despacho|pasillo|comedor|jardín",
        "floor": "primera|segunda|tercera|baja",
        "zone": "casa|trabajo|colegio|gimnasio",
        "shopping_list_item": "leche|dos barras de pan|manzanas|detergente|aceite de oliva|pilas|té|arroz",
        "todo_list_item": "regar las plantas|llamar al fontanero|pagar el alquiler|lavar el coche|reservar mesa|limpiar las ventanas",
        "timer_name": "pizza|pasta|lavadora|té|siesta|huevos",
        "timer_command": "abre la puerta del garaje|apaga las luces|cierra las persianas|enciende la aspiradora",
        "search_query": "jazz para la noche|las cuatro estaciones|canciones del mar|pájaros del bosque|piano para la lluvia",
        "message": "la cena está lista|salimos en diez minutos|bajad por favor|empieza la película|el baño está listo",
    },
    "de": {
        "area": "Küche|Wohnzimmer|Schlafzimmer|Bad|Garage|Büro|Flur|Kinderzimmer|Garten",
        "floor": "Erdgeschoss|erster Stock|zweiter Stock|Obergeschoss",
        "zone": "Zuhause|Arbeit|Schule|Sporthalle",
        "shopping_list_item": "Milch|zwei Brote|Äpfel|Waschmittel|Olivenöl|Batterien|Tee|Reis",
        "todo_list_item": "Blumen gießen|den Klempner anrufen|die Miete zahlen|das Auto waschen|einen Tisch bestellen|Fenster putzen",
        "timer_name": "Pizza|Nudeln|Wäsche|Tee|Schlaf|Eier",
        "timer_command": "öffne das Garagentor|schalte das Licht aus|schließe die Jalousien|starte den Staubsauger",
        "search_query": "Jazz für den Abend|die vier Jahreszeiten|Lieder vom Meer|Vögel des Waldes|Klavier für Regentage",
        "message": "das Essen ist fertig|wir gehen in zehn Minuten|kommt bitte herunter|der Film beginnt|das Bad ist fertig",
    },
}


@dataclass(frozen=True)
class Branch:
    """One of several parts (`|`), or all of them in any order (`;`); a part is a row of words, {lists}, <rules> and branches."""

    mark: str
    parts: tuple[tuple[Any, ...], ...]


@cache
def parsed(template: str) -> Branch:
    """A template as a tree."""
    return branch(iter(TOKEN.findall(template)))


def branch(tokens: Iterator[str]) -> Branch:
    """All up to the bracket that closes it."""
    parts: list[list[Any]] = [[]]
    mark = "|"
    for token in tokens:
        if token in ("]", ")"):
            break
        if token in ("|", ";"):
            mark = token
            parts.append([])
        elif token in ("(", "["):
            inner = branch(tokens)
            parts[-1].append(inner if token == "(" else Branch("|", ((inner,), ())))
        else:
            parts[-1].append(token)
    return Branch(mark, tuple(map(tuple, parts)))


@dataclass(frozen=True)
class Home:
    """A language's lists and rules, and the words of a home."""

    lists: Mapping[str, Any]
    rules: Mapping[str, str]
    words: Mapping[str, str]

    def say(self, node: Branch | str, rng: Random) -> str:
        """One of the many texts that a part of a template stands for."""
        if isinstance(node, Branch):
            parts = rng.sample(node.parts, len(node.parts)) if node.mark == ";" else [rng.choice(node.parts)]
            return " ".join("".join(self.say(piece, rng) for piece in part) for part in parts)
        if node.startswith("<"):
            return self.say(parsed(self.rules[node[1:-1]]), rng)
        return self.value(node[1:-1].partition(":")[0], rng) if node.startswith("{") else node

    def value(self, name: str, rng: Random) -> str:
        """One value of a list."""
        if name in self.words:
            return rng.choice(self.words[name].split("|"))
        known = self.lists[name]
        if "range" in known:
            return str(rng.randrange(known["range"]["from"], known["range"]["to"] + 1, known["range"].get("step", 1)))
        value = rng.choice(known["values"])
        return self.say(parsed(value if isinstance(value, str) else value["in"]), rng)


def utterances(language: str) -> list[tuple[str, str]]:
    """(text, intent) of up to EACH different texts for each intent; what two intents claim is left out."""
    spec = json.loads(installed("home_assistant_intents", f"data/{language}.json").read_bytes())
    found = [(text, intent) for intent, part in sorted(spec["intents"].items()) for text in said(spec, language, intent, part["data"])]
    claims = Counter(text for text, _ in found)
    found = [(text, intent) for text, intent in found if claims[text] == 1]
    sizes = Counter(intent for _, intent in found)
    return [(text, intent) for text, intent in found if sizes[intent] >= LEAST]


def said(spec: Mapping[str, Any], language: str, intent: str, blocks: list[Mapping[str, Any]]) -> list[str]:
    """Up to EACH different texts of an intent, the same ones at every call."""
    rng, found = Random(f"{language} {intent}"), dict[str, None]()
    for _ in range(TRIES * EACH):
        block = rng.choice(blocks)
        domains = [d for d in block.get("requires_context", {}).get("domain", ()) if d in THINGS[language]]
        things = THINGS[language][rng.choice(domains or ["light", "switch"])]
        home = Home(spec["lists"], spec["expansion_rules"], {**SAID[language], "name": things})
        text = " ".join(home.say(parsed(rng.choice(block["sentences"])), rng).split())
        if text:
            found[text] = None
        if len(found) == EACH:
            break
    return list(found)
