import assert from "node:assert/strict";
import { bootedSystem, starts, withoutCounter } from "./boot_entries.ts";

const system = `/nix/store/${"a".repeat(32)}-system`;

Deno.test("the booted system is read from the kernel's command line", () => {
  assert.equal(bootedSystem(`BOOT_IMAGE=x init=${system}/init root=UUID=1\n`), system);
  assert.equal(bootedSystem("init=/bin/sh"), undefined);
  assert.equal(bootedSystem(`xinit=${system}/init`), undefined);
});

Deno.test("a counter is taken from an entry's name, and nothing else is", () => {
  assert.equal(withoutCounter("uc-abc+2-1.conf"), "uc-abc.conf");
  assert.equal(withoutCounter("uc-abc+3.conf"), "uc-abc.conf");
  assert.equal(withoutCounter("uc-a+b.conf"), "uc-a+b.conf");
});

Deno.test("an entry starts the system that its options name", () => {
  assert.equal(starts(`title x\noptions init=${system}/init quiet\n`, system), true);
  assert.equal(starts(`title init=${system}/init\noptions quiet\n`, system), false);
  assert.equal(starts(`options init=${system}-2/init\n`, system), false);
});
