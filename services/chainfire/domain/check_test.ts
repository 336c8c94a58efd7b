import { Fault, utf8 } from "@ultracloud/base";
import assert from "node:assert/strict";
import { checkOp } from "./check.ts";
import type { Op, TxnOp } from "./types.ts";

const b = utf8.encode;
const none = new Uint8Array(0);
const put = (key: string): Op => ({
  kind: "put",
  key: b(key),
  value: none,
  lease: 0n,
  prevKv: false,
  ignoreValue: false,
  ignoreLease: false,
});
const remove = (key: string, end = ""): Op => ({ kind: "delete", key: b(key), end: b(end), prevKv: false });
const txn = (success: Op[], failure: Op[] = []): TxnOp => ({ kind: "txn", compares: [], success, failure });
const refusal = (op: Op) => {
  try {
    checkOp(op);
    return "ok";
  } catch (error) {
    assert.ok(error instanceof Fault);
    return `${error.code} ${error.detail.field ?? ""}`.trim();
  }
};

Deno.test("checkOp() refuses a key written twice, as etcd does", () => {
  assert.equal(refusal(txn([put("a"), put("b")])), "ok");
  assert.equal(refusal(txn([put("a"), put("a")])), "duplicate_key success[1]");
  assert.equal(refusal(txn([put("b"), remove("a", "c")])), "duplicate_key success[1]");
  assert.equal(refusal(txn([remove("a", "\0"), put("z")])), "duplicate_key success[1]");
  assert.equal(refusal(txn([remove("a", "c"), remove("b")])), "ok");
  assert.equal(refusal(txn([put("a")], [put("a")])), "ok");
  // Only one branch of a nested transaction runs, so its branches may write the same key; its siblings may not.
  assert.equal(refusal(txn([txn([put("a")], [put("a")])])), "ok");
  assert.equal(refusal(txn([put("a"), txn([], [put("a")])])), "duplicate_key success[1]");
  assert.equal(refusal(txn([txn([put("a"), put("a")])])), "duplicate_key success[0].success[1]");
});

Deno.test("checkOp() names the field at fault", () => {
  assert.equal(refusal(put("")), "empty_key key");
  assert.equal(refusal(txn([put("a"), txn([], [put("")])])), "empty_key success[1].failure[0].key");
  assert.equal(refusal({ ...put("a"), value: b("x"), ignoreValue: true } as Op), "value_provided value");
  assert.equal(refusal({ ...put("a"), lease: 1n, ignoreLease: true } as Op), "lease_provided lease");
  assert.equal(refusal(txn(Array.from({ length: 129 }, (_, i) => put(`k${i}`)))), "too_many_ops success");
  let deep: Op = put("a");
  for (let i = 0; i < 9; i++) deep = txn([deep]);
  assert.match(refusal(deep), /^txn_too_deep/);
});
