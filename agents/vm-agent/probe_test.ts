import assert from "node:assert/strict";
import { Fault, systemClock } from "@ultracloud/base";
import { bootUnder, chooseAccelerator, qemuVersion } from "./probe.ts";

const deps = { clock: systemClock, signal: new AbortController().signal };
const found = await qemuVersion().catch(() => undefined);

Deno.test({
  name: "the probe's boot sector runs to its end under TCG",
  ignore: found === undefined,
  async fn() {
    assert.ok(found!.major >= 6);
    const dir = await Deno.makeTempDir();
    try {
      // The time given is for KVM: a busy machine emulates slowly.
      assert.equal(await bootUnder("tcg", `${dir}/probe.img`, deps, { timeoutMs: 60_000 }), undefined);
    } finally {
      await Deno.remove(dir, { recursive: true });
    }
  },
});

Deno.test({
  name: "chooseAccelerator() takes KVM only after a boot, remembers a refusal, and holds to what is configured",
  ignore: found === undefined,
  async fn() {
    const dir = await Deno.makeTempDir();
    try {
      const options = { stateDir: dir, hostKey: "host" };
      assert.deepEqual(await chooseAccelerator({ ...options, configured: "tcg" }, deps), {
        accelerator: "tcg",
        reason: "configured",
      });
      const first = await chooseAccelerator({ ...options, configured: "auto" }, deps);
      const second = await chooseAccelerator({ ...options, configured: "auto" }, deps);
      assert.equal(second.accelerator, first.accelerator);
      if (first.accelerator === "tcg") {
        assert.match(second.reason, /\(remembered\)$/);
        const strict = chooseAccelerator({ ...options, configured: "kvm" }, deps);
        await assert.rejects(strict, (error) => error instanceof Fault && error.code === "kvm_unusable");
      }
    } finally {
      await Deno.remove(dir, { recursive: true });
    }
  },
});
