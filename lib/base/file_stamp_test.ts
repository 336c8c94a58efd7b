import assert from "node:assert/strict";
import { fileStamp, fileStamps } from "./file_stamp.ts";

Deno.test("fileStamp() tells two writes of one tick of the clock apart, and a file from the one that replaced it", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const [file, other] = [`${dir}/one`, `${dir}/two`];
    await Deno.writeTextFile(file, "1");
    const { mtime } = await Deno.stat(file);
    const write = async (path: string, text: string) => {
      await Deno.writeTextFile(path, text);
      await Deno.utime(path, mtime!, mtime!);
    };
    const seen = [fileStamp(await Deno.stat(file))];
    await write(file, "22");
    seen.push(fileStamp(await Deno.stat(file)));
    // As every file that others read is replaced: written whole beside it, then renamed; here of the same size, too.
    await write(other, "33");
    await Deno.rename(other, file);
    seen.push(fileStamp(await Deno.stat(file)));
    assert.equal(new Set(seen).size, 3, seen.join("; "));
    assert.equal(fileStamps([file, file]), `${seen[2]},${seen[2]}`);
    assert.throws(() => fileStamps([file, other]), Deno.errors.NotFound);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
