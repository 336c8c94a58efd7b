import assert from "node:assert/strict";
import fc from "fast-check";
import { parse } from "yaml";
import type { Column } from "./columns.ts";
import { enumName, humanAge, humanBytes } from "./columns.ts";
import { alignColumns, atPath, type Item, printable, render, type RenderOptions } from "./render.ts";

interface Disk {
  readonly name: string;
  readonly bytes: number;
  readonly labels?: Record<string, string>;
}
const columns: readonly Column<Disk>[] = [
  { name: "name", get: (d) => d.name },
  { name: "used_bytes", get: (d) => humanBytes(d.bytes), order: (d) => d.bytes },
  { name: "labels", get: (d) => JSON.stringify(d.labels ?? {}), wide: true },
];
const items = (...disks: Disk[]): Item<Disk>[] => disks.map((value) => ({ value, json: value, name: value.name }));
const options = (o: Partial<RenderOptions> = {}): RenderOptions => ({ output: "table", headers: true, ...o });
const three = items({ name: "a", bytes: 2 ** 30 }, { name: "disk-10", bytes: 512 }, { name: "disk-9", bytes: 2 ** 20 });

Deno.test("a table is aligned, has no trailing blanks and keeps wide columns out", async () => {
  assert.equal(
    await render(three, columns, options()),
    "NAME     USED BYTES\na        1 GiB\ndisk-10  512 B\ndisk-9   1 MiB",
  );
  assert.match(await render(three, columns, options({ output: "wide" })), /^NAME +USED BYTES +LABELS\n/);
  assert.equal(
    await render(three, columns, options({ headers: false, columns: "name" })),
    "a\ndisk-10\ndisk-9",
  );
});

Deno.test("columns may be JSON paths, and blanks around commas do not count", async () => {
  const list = items({ name: "a", bytes: 1, labels: { tier: "gold" } });
  assert.equal(
    await render(list, columns, options({ columns: "name, labels.tier," })),
    "NAME  LABELS.TIER\na     gold",
  );
  assert.equal(await render(list, columns, options({ columns: "no.such", headers: false })), "");
});

Deno.test("JSON and YAML carry raw values, a single resource as an object", async () => {
  assert.deepEqual(JSON.parse(await render(three, columns, options({ output: "json" }))), three.map((i) => i.json));
  assert.deepEqual(parse(await render(three, columns, options({ output: "yaml" }))), three.map((i) => i.json));
  assert.deepEqual(
    JSON.parse(await render(items({ name: "a", bytes: 1 }), columns, options({ output: "json" }), true)),
    {
      name: "a",
      bytes: 1,
    },
  );
  assert.equal(await render(three, columns, options({ output: "name" })), "a\ndisk-10\ndisk-9");
});

Deno.test("an empty list is empty in every form", async () => {
  assert.equal(await render([], columns, options({ output: "json" })), "[]");
  assert.equal(await render([], columns, options({ output: "yaml" })), "[]");
  assert.equal(await render([], columns, options({ output: "name" })), "");
});

Deno.test("a single resource that the filter leaves out prints nothing", async () => {
  for (const output of ["table", "wide", "json", "yaml", "name"] as const) {
    const filter = ["name=other"];
    assert.equal(await render(items({ name: "a", bytes: 1 }), columns, options({ output, filter }), true), "");
  }
});

Deno.test("filters match on the JSON form and all must hold", async () => {
  const names = (filter: string[]) => render(three, columns, options({ output: "name", filter }));
  assert.equal(await names(["bytes=512"]), "disk-10");
  assert.equal(await names(["name!=a", "bytes!=512"]), "disk-9");
  assert.equal(await names(["labels.tier="]), "a\ndisk-10\ndisk-9", "an absent path is empty");
  assert.equal(await names(["name=a=b"]), "", "the value may hold an equals sign");
  await assert.rejects(names(["name"]), { code: "bad_filter" });
  await assert.rejects(names(["=a"]), { code: "bad_filter" });
});

Deno.test("sorting follows what is meant: numbers in names, bytes behind a human size, a minus reverses", async () => {
  const sorted = (sort: string) => render(three, columns, options({ output: "name", sort }));
  assert.equal(await sorted("name"), "a\ndisk-9\ndisk-10");
  assert.equal(await sorted("-name"), "disk-10\ndisk-9\na");
  assert.equal(await sorted("used_bytes"), "disk-10\ndisk-9\na");
  assert.equal(await sorted("bytes"), "disk-10\ndisk-9\na");
});

Deno.test("control characters of others never reach the terminal", async () => {
  const evil = "\u001b[2Jx\u009b31m\u007f\r\ny";
  const list = [{ value: { name: evil, bytes: 1 }, json: { name: evil }, name: evil }];
  for (const output of ["table", "wide", "json", "yaml", "name"] as const) {
    const text = await render(list, columns, options({ output }));
    // deno-lint-ignore no-control-regex -- looked for on purpose
    assert.doesNotMatch(text, /[\x00-\x09\x0b-\x1f\x7f-\x9f]/, output);
  }
  assert.deepEqual(JSON.parse(await render(list, columns, options({ output: "json" }))), [{ name: evil }]);
  assert.deepEqual(parse(await render(list, columns, options({ output: "yaml" }))), [{ name: evil }]);
  assert.equal(printable("a\u001bb"), "a\\x1bb");
});

Deno.test("printable() leaves no control character in any text and keeps everything else", () => {
  fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => {
    const shown = printable(text);
    // deno-lint-ignore no-control-regex -- looked for on purpose
    assert.doesNotMatch(shown, /[\x00-\x1f\x7f-\x9f]/);
    // deno-lint-ignore no-control-regex -- looked for on purpose
    if (!/[\x00-\x1f\x7f-\x9f]/.test(text)) assert.equal(shown, text);
  }));
});

Deno.test("alignColumns() never puts two cells of a column at different places", () => {
  const cell = fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 9 });
  fc.assert(fc.property(fc.array(fc.tuple(cell, cell), { minLength: 1 }), (rows) => {
    const lines = alignColumns(rows).split("\n");
    assert.equal(lines.length, rows.length);
    const at = Math.max(...rows.map((row) => row[0].length)) + 2;
    rows.forEach((row, i) => assert.equal(lines[i]!.slice(at), row[1]));
  }));
});

Deno.test("atPath() reads own members only", () => {
  assert.equal(atPath({ a: [{ b: 1 }] }, "a.0.b"), 1);
  assert.equal(atPath({ a: 1 }, "a.b.c"), undefined);
  assert.equal(atPath({}, "constructor"), undefined);
  assert.equal(atPath({}, "__proto__.toString"), undefined);
});

Deno.test("values for people", () => {
  assert.deepEqual([0, 512, 1024, 1536, 2n ** 40n, 2n ** 51n].map(humanBytes), [
    "0 B",
    "512 B",
    "1 KiB",
    "1.5 KiB",
    "1 TiB",
    "2048 TiB",
  ]);
  assert.deepEqual([119, 120, 7_200, 172_800].map((s) => humanAge(0, s * 1000)), ["119s", "2m", "2h", "2d"]);
  assert.equal(humanAge(5_000, 0), "0s", "a clock that differs shows no negative age");
  assert.equal(enumName({ 1: "KERNEL_BUNDLE" }, 1), "kernel-bundle");
  assert.equal(enumName({}, 7), "7");
});
