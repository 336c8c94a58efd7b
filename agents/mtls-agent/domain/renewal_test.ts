import assert from "node:assert/strict";
import { renewalDue } from "./renewal.ts";

Deno.test("renewalDue() renews at half life, when an authority replaces another, and what is missing or from the future", () => {
  const held = { obtainedMs: 1_000, startMs: 1_000, endMs: 3_000, issuer: "CN=a" };
  const due = (nowMs: number, signingSubject = "CN=a") => renewalDue(held, { nowMs, signingSubject });
  assert.equal(due(1_999), undefined);
  assert.match(due(2_000)!, /half/);
  assert.match(due(1_500, "CN=b")!, /another authority/);
  assert.match(due(999)!, /not valid yet/);
  assert.match(renewalDue(undefined, { nowMs: 0, signingSubject: "CN=a" })!, /none/);
  // Dated back by a minute, and still used for half of what was left when it came.
  const backdated = { obtainedMs: 61_000, startMs: 1_000, endMs: 71_000, issuer: "CN=a" };
  assert.equal(renewalDue(backdated, { nowMs: 65_999, signingSubject: "CN=a" }), undefined);
  assert.match(renewalDue(backdated, { nowMs: 66_000, signingSubject: "CN=a" })!, /half/);
  assert.match(renewalDue({ ...backdated, obtainedMs: 99_000 }, { nowMs: 40_000, signingSubject: "CN=a" })!, /half/);
});
