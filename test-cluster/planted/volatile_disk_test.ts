import assert from "node:assert/strict";
import { systemDisk } from "@ultracloud/wal";
import { volatileDisk } from "./volatile_disk.ts";

const bytes = (...values: number[]) => new Uint8Array(values);

/** The file as the next process would find it, had this one been killed now. */
function onDisk(path: string): number[] {
  return [...Deno.readFileSync(path)];
}

function read(file: { size(): number; readAt(into: Uint8Array, offset: number): number }, offset = 0): number[] {
  const into = new Uint8Array(16);
  return [...into.subarray(0, file.readAt(into, offset))];
}

Deno.test("volatileDisk() keeps what is not synced from the file, and shows it to the writer", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const path = `${dir}/log`;
    const file = volatileDisk(systemDisk, { lying: false }).open(path, { create: true });
    file.writeAt(bytes(1, 2, 3, 4), 0);
    assert.deepEqual(onDisk(path), []);
    assert.deepEqual(read(file), [1, 2, 3, 4]);
    await file.sync();
    assert.deepEqual(onDisk(path), [1, 2, 3, 4]);
    file.truncate(2);
    file.writeAt(bytes(9), 3);
    assert.equal(file.size(), 4);
    assert.deepEqual(read(file), [1, 2, 0, 9]);
    assert.deepEqual(read(file, 1), [2, 0, 9]);
    assert.deepEqual(read(file, 7), []);
    assert.deepEqual(onDisk(path), [1, 2, 3, 4]);
    await file.sync();
    assert.deepEqual(onDisk(path), [1, 2, 0, 9]);
    file.close();
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("volatileDisk() that lies says durable before anything is written", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const path = `${dir}/log`;
    const file = volatileDisk(systemDisk, { lying: true }).open(path, { create: true });
    file.writeAt(bytes(1, 2), 0);
    await file.sync();
    assert.deepEqual(onDisk(path), []);
    file.close();
    assert.deepEqual(onDisk(path), [1, 2]);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
