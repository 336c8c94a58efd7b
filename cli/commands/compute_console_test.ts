import assert from "node:assert/strict";
import { Keys } from "./compute_console.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const texts = (keys: Keys, ...typed: string[]) =>
  typed.map((text) => {
    const { send, commands } = keys.take(bytes(text));
    return [new TextDecoder().decode(send), ...commands];
  });

Deno.test("keys reach the guest as typed, Ctrl-C included", () => {
  assert.deepEqual(texts(new Keys(), "ls\r", "\x03\x04\x1a"), [["ls\r"], ["\x03\x04\x1a"]]);
});

Deno.test("Ctrl-] asks uc, also when it comes apart from its letter, and twice is itself", () => {
  assert.deepEqual(texts(new Keys(), "a\x1drb"), [["ab", "size"]]);
  assert.deepEqual(texts(new Keys(), "a\x1d", "\x1db", "\x1d", "?"), [["a"], ["\x1db"], [""], ["", "help"]]);
  assert.deepEqual(texts(new Keys(), "a\x1ddrm -rf\r"), [["a", "detach"]]);
});
