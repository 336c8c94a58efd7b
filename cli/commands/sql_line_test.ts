import assert from "node:assert/strict";
import { completions, LineEditor, splitStatements } from "./sql_line.ts";
import { keysOf } from "./sql_shell.ts";

function typed(editor: LineEditor, ...keys: string[]): unknown {
  return keys.map((key) => editor.key(key)).at(-1);
}

Deno.test("the line editor moves, deletes and inserts whole characters", () => {
  const editor = new LineEditor([], () => []);
  typed(editor, "a", "ü", "😀", "c", "\x1b[D", "\x7f");
  assert.deepEqual([editor.text, editor.cursor], ["aüc", 2]);
  typed(editor, "\x01", "x", "\x05", "y", "\x1b[3~", "\x02");
  assert.equal(editor.text, "xaücy");
  assert.equal(typed(editor, "\x15"), undefined);
  assert.equal(editor.text, "");
  assert.equal(typed(editor, "\x04"), "end");
  assert.equal(typed(editor, "q", "\x04"), undefined);
  assert.equal(typed(editor, "\r"), "line");
  assert.equal(typed(editor, "\x03"), "cancel");
});

Deno.test("the line editor walks the history and comes back to what was begun", () => {
  const editor = new LineEditor(["SELECT 1;", "SELECT 2;"], () => []);
  typed(editor, "n", "\x1b[A");
  assert.equal(editor.text, "SELECT 2;");
  typed(editor, "\x1b[A", "\x1b[A");
  assert.equal(editor.text, "SELECT 1;");
  typed(editor, "\x1b[B", "\x1b[B", "\x1b[B");
  assert.equal(editor.text, "n");
});

Deno.test("completion knows the database's names and SQL's words, in the case that was begun", () => {
  const names = ["account", "amount", "Address"];
  assert.deepEqual(completions("ac", names), ["account"]);
  assert.deepEqual(completions("SEL", names), ["SELECT"]);
  assert.deepEqual(completions("sel", names), ["select"]);
  const editor = new LineEditor([], (word) => completions(word, names));
  typed(editor, ..."select am", "\t");
  assert.equal(editor.text, "select amount ");
  assert.deepEqual(typed(editor, "a", "\t"), {
    choices: ["Address", "account", "add", "all", "alter", "amount", "and", "as", "avg"],
  });
  assert.equal(typed(editor, "z", "\t"), undefined);
});

Deno.test("statements end at semicolons that are not in texts, names, comments or triggers", () => {
  const { statements, rest } = splitStatements(
    `SELECT ';' AS "a;b"; -- not; here
/* nor; here */ INSERT INTO t VALUES(1);
CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM u; SELECT 1; END;
SELECT 2`,
  );
  assert.equal(statements.length, 3);
  assert.match(statements[2]!, /^CREATE TRIGGER[\s\S]*END$/);
  assert.equal(rest, "SELECT 2");
  assert.deepEqual(splitStatements(" ; ;\n"), { statements: [], rest: "" });
});

Deno.test("what a terminal sends is taken key by key", () => {
  assert.deepEqual(keysOf("a\x1b[A\x1b[3~😀\t"), ["a", "\x1b[A", "\x1b[3~", "😀", "\t"]);
});
