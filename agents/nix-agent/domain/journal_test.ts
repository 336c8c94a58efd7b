import assert from "node:assert/strict";
import { desiredSystemSchema } from "@ultracloud/cluster-state";
import { recover, type Trial } from "./journal.ts";
import { commandLine, quoted } from "./quote.ts";

const target = `/nix/store/${"a".repeat(32)}-system`;
const trial: Trial = {
  id: "t",
  intentId: "1",
  system: desiredSystemSchema.parse({ target_system: target }),
  previousGeneration: 1,
  previousSystem: "",
  bootId: "b1",
  rebooting: false,
};

Deno.test("recover() keeps a trial that goes on, finishes one that ended, and goes back in every other case", () => {
  const same = { bootId: "b1", result: undefined, guardianAlive: true, bootedSystem: undefined };
  const rebooting = { ...trial, rebooting: true };
  assert.deepEqual(recover(undefined, same), { kind: "none" });
  assert.deepEqual(recover(trial, same), { kind: "adopt" });
  assert.deepEqual(recover(trial, { ...same, result: "active" }), { kind: "finish", result: "active" });
  assert.equal(recover(trial, { ...same, guardianAlive: false }).kind, "roll-back");
  // A result of before the restart says nothing about the host of after it.
  assert.equal(recover(trial, { ...same, bootId: "b2", result: "active" }).kind, "roll-back");
  assert.deepEqual(recover(rebooting, { ...same, bootId: "b2", bootedSystem: target }), { kind: "verify" });
  assert.equal(recover(rebooting, { ...same, bootId: "b2", bootedSystem: "/other" }).kind, "roll-back");
  assert.equal(recover(rebooting, { ...same, bootId: "b2" }).kind, "roll-back");
});

Deno.test("quoted() makes one word of anything, for a real shell", async () => {
  const words = ["plain", "two words", "it's", "$(reboot)", "`id`", '"', "\\", "a\nb", "*", ""];
  const { stdout } = await new Deno.Command("/bin/sh", { args: ["-c", `printf '%s|' ${commandLine(words)}`] }).output();
  assert.equal(new TextDecoder().decode(stdout), words.map((word) => `${word}|`).join(""));
  assert.throws(() => quoted("a\0b"));
});
