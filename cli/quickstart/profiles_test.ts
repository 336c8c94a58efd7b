import assert from "node:assert/strict";
import { componentsOf, profiles } from "./profiles.ts";

const dev = profiles["single-node-dev"];
const built = new Set<string>([...dev.required, "lightningstor"]);

Deno.test("componentsOf() adds what was asked for once, after what is required", () => {
  assert.deepEqual(componentsOf(dev, [], built), [...dev.required]);
  assert.deepEqual(componentsOf(dev, ["lightningstor", "iam", "lightningstor"], built), [
    ...dev.required,
    "lightningstor",
  ]);
});

Deno.test("componentsOf() refuses what the profile does not know and what is not built, by name", () => {
  assert.throws(() => componentsOf(dev, ["deployer"], built), { code: "component_unknown", kind: "invalid_argument" });
  assert.throws(() => componentsOf(dev, ["flashdns"], built), { code: "component_not_built" });
});
