// What a program for node does all day: its engine writes code as it runs.
"use strict";

function fibonacci(n) {
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

function count(rounds) {
    const seen = new Map();
    let sum = 0;
    for (let i = 0; i < rounds; i++) {
        seen.set("key " + (i % 5000), i);
        sum = (sum * 31 + seen.size + i) % 1000000007;
    }
    return sum;
}

function roots(size, rounds) {
    const values = new Float64Array(size);
    for (let round = 0; round < rounds; round++)
        for (let i = 0; i < size; i++) values[i] = Math.sqrt(values[i] * values[i] + i);
    return Math.floor(values[size - 1] * 1000);
}

function sorted(size) {
    const all = [];
    for (let i = 0; i < size; i++) all.push({ number: (i * 7919) % 100003, text: "value " + i });
    all.sort((one, other) => one.number - other.number);
    return JSON.stringify(JSON.parse(JSON.stringify(all))).length + all[5].text.length;
}

console.log("checksum", fibonacci(30), count(1000000), roots(200000, 40), sorted(200000));
