import { utf8 } from "@ultracloud/base";
import assert from "node:assert/strict";
import fc from "fast-check";
import { bool, bytes, int64, oneOf, readObject, uint64 } from "./json_read.ts";
import { firstValue, jsonValues } from "./json_stream.ts";

const message = (work: () => unknown) => {
  try {
    work();
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error("Cannot find a failure: it was read");
};
const forever = new AbortController().signal;
const read = (text: string) => readObject(utf8.encode(text));

Deno.test("a body is one object; none is an empty one and what follows it is not read", () => {
  assert.deepEqual(read(""), {});
  assert.deepEqual(read("  "), {});
  assert.deepEqual(read("null"), {});
  assert.deepEqual(read('{"key":"YQ=="} trailing'), { key: "YQ==" });
  assert.deepEqual(read('{"a":"}"}{"b":1}'), { a: "}" });
  assert.equal(message(() => read("x")), "invalid character 'x' looking for beginning of value");
  assert.equal(message(() => read('{"key":"YQ==')), "unexpected EOF");
  assert.match(message(() => read('{"key":1,}')), /^invalid JSON: /);
  assert.match(message(() => read("[]")), /cannot unmarshal array into Go value of type map/);
  assert.match(message(() => read("5")), /cannot unmarshal number/);
});

Deno.test("64-bit numbers keep all their digits, quoted or not", () => {
  assert.equal(int64(read('{"ID":2324035519317190933}').ID), 2324035519317190933n);
  assert.equal(int64(read('{"ID":"2324035519317190933"}').ID), 2324035519317190933n);
  assert.equal(int64(read('{"a":"1234567890123456789","ID":-7}').ID), -7n);
  assert.equal(uint64("18446744073709551615"), 18446744073709551615n);
  assert.equal(int64(null), 0n);
  assert.match(message(() => int64("9223372036854775808")), /cannot unmarshal number 9223372036854775808/);
  assert.match(message(() => int64(7.5)), /cannot unmarshal number 7.5 into Go value of type int64/);
  assert.match(message(() => int64("x")), /invalid character 'x' looking for beginning of value/);
  assert.match(message(() => int64("")), /unexpected end of JSON input/);
  assert.match(message(() => uint64(-1)), /uint64/);
  assert.match(message(() => bool("true")), /cannot unmarshal string into Go value of type bool/);
});

Deno.test("base64 is read as etcd reads it: padding wanted, line ends allowed, other blanks not", () => {
  assert.deepEqual([...bytes("YQ==")], [97]);
  assert.deepEqual([...bytes("Yg==\n")], [98]);
  assert.deepEqual([...bytes("Y\ng=\r\n=")], [98]);
  assert.deepEqual([...bytes("Yj==")], [98], "bits that are left over do not matter");
  assert.equal(message(() => bytes("Yg")), "illegal base64 data at input byte 0");
  assert.equal(message(() => bytes("YQ-_")), "illegal base64 data at input byte 2");
  assert.equal(message(() => bytes("Y g=")), "illegal base64 data at input byte 1");
  assert.equal(message(() => bytes("Y g==")), "illegal base64 data at input byte 1");
  assert.match(message(() => bytes(5)), /cannot unmarshal number into Go value of type \[\]uint8/);
  fc.assert(fc.property(fc.uint8Array(), (raw) => assert.deepEqual(bytes(raw.toBase64()), raw)));
});

Deno.test("enums are names or numbers", () => {
  const names = ["NONE", "ASCEND"] as const;
  assert.equal(oneOf(undefined, names, "T"), "NONE");
  assert.equal(oneOf("ASCEND", names, "T"), "ASCEND");
  assert.equal(oneOf(1, names, "T"), "ASCEND");
  assert.equal(message(() => oneOf("FOO", names, "T")), 'unknown value "FOO" for enum T');
  assert.match(message(() => oneOf(9, names, "T")), /unknown value 9/);
});

Deno.test("values that follow each other are told apart wherever the body is cut into pieces", async () => {
  const word = fc.string({ unit: "grapheme", maxLength: 8 });
  await fc.assert(fc.asyncProperty(
    fc.array(fc.jsonValue({ stringUnit: "grapheme" }).filter((v) => typeof v === "object" && v !== null)),
    fc.array(fc.nat({ max: 40 })),
    word,
    async (values, cuts, blank) => {
      const between = /^[ \n]*$/.test(blank) ? blank : "\n";
      const all = utf8.encode(values.map((value) => JSON.stringify(value)).join(between));
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          let at = 0;
          for (const cut of cuts) {
            if (at + cut >= all.length) break;
            controller.enqueue(all.slice(at, at + cut));
            at += cut;
          }
          controller.enqueue(all.slice(at));
          controller.close();
        },
      });
      const seen: unknown[] = [];
      for await (const text of jsonValues(body, 1e6, forever)) seen.push(JSON.parse(text));
      assert.deepEqual(seen, JSON.parse(JSON.stringify(values)));
    },
  ));
});

Deno.test("a stream of values is bounded, and one that is cut short is a failure", async () => {
  const run = async (text: string) => {
    const seen: string[] = [];
    for await (const value of jsonValues(new Response(text).body, 100, forever)) seen.push(value.trim());
    return seen;
  };
  assert.deepEqual(await run('{"a":1} {"b":"}"}x'), ['{"a":1}', '{"b":"}"}', "x"]);
  assert.deepEqual(await run(""), []);
  await assert.rejects(run('{"a":'), { message: "unexpected EOF" });
  await assert.rejects(run(`{"a":"${"x".repeat(100)}`), { code: "message_too_large" });
  assert.equal(firstValue(' {"a":[1]} x'), ' {"a":[1]}');
  assert.equal(firstValue('{"a'), undefined);
});
