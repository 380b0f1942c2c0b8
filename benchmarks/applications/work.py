"""What an interpreter does all day, in the spirit of pystone: objects, calls, lists, strings."""

from __future__ import annotations


class Record:
    def __init__(self, successor: Record | None, kind: int, number: int, text: str) -> None:
        self.successor = successor
        self.kind = kind
        self.number = number
        self.text = text

    def copy(self) -> Record:
        return Record(self.successor, self.kind, self.number, self.text)


def swap(array: list[int], matrix: list[list[int]], index: int, value: int) -> int:
    place = index + 5
    array[place] = value
    array[place + 1] = array[place]
    array[place + 30] = place
    for column in range(place, place + 2):
        matrix[place][column] = place
    matrix[place][place - 1] += 1
    return array[place] + matrix[place][place]


def letters(text: str) -> int:
    counts: dict[str, int] = {}
    for letter in text:
        counts[letter] = counts.get(letter, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[0][1]


def work(rounds: int) -> int:
    array = [0] * 51
    matrix = [[0] * 51 for _ in range(51)]
    first = Record(None, 1, 40, "DHRYSTONE PROGRAM, SOME STRING")
    record = Record(first, 2, 3, "DHRYSTONE PROGRAM, 2'ND STRING")
    total = 0
    for index in range(rounds):
        record = record.copy()
        record.successor = first if index % 3 else record
        record.number = (record.number * 7 + index) % 1009
        total += swap(array, matrix, index % 14, record.number)
        words = f"{record.text} {index}".lower().split()
        total += len(words) + letters(words[-1])
        if record.number > 500 and words[0] != record.text:
            total -= int(record.number / 3.5)
    return total


print("checksum", work(150_000))
