import { run } from "@stricli/core";
import { startComponent, startTestStack } from "@ultracloud/testing";
import assert from "node:assert/strict";
import { buildUc } from "../app.ts";
import { writeContexts } from "../frame/contexts.ts";
import type { Io } from "../frame/io.ts";

export interface Result {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** A terminal whose words are kept, over one real component. For tests. */
export class Desk implements AsyncDisposable {
  readonly #member: Awaited<ReturnType<typeof startComponent>>;
  readonly dir: string;

  constructor(member: Awaited<ReturnType<typeof startComponent>>, dir: string) {
    this.#member = member;
    this.dir = dir;
  }

  static async open(): Promise<Desk> {
    const member = await startComponent("chainfire");
    const dir = await Deno.makeTempDir({ prefix: "uc-desk-" });
    const desk = new Desk(member, dir);
    desk.point({ url: member.url, operatorKeyFile: member.stack.operatorKeyFile });
    return desk;
  }

  /** The same over a real iam, logged in as its administrator. */
  static async openIam(): Promise<Desk> {
    const { stack, ...test } = await startTestStack({ components: ["flaredb", "iam"] });
    const dir = await Deno.makeTempDir({ prefix: "uc-desk-" });
    const desk = new Desk({ url: stack.endpoint("iam"), stack, ...test }, dir);
    const context = {
      endpoint: "http://127.0.0.1",
      endpoints: { iam: stack.endpoint("iam") },
      project: "acme/prod",
    };
    writeContexts(`${dir}/uc.json`, { version: 1, current: "test", contexts: { test: context }, credentials: {} });
    await desk.ok("login", "--admin-token-file", stack.adminTokenFile);
    return desk;
  }

  get url(): string {
    return this.#member.url;
  }

  /** Commands go to this member from now on. */
  point({ url, operatorKeyFile }: { readonly url: string; readonly operatorKeyFile: string }): void {
    const context = {
      clusterId: "test",
      endpoint: "http://127.0.0.1",
      operatorKeyFile,
      endpoints: { chainfire: url },
    };
    writeContexts(`${this.dir}/uc.json`, { version: 1, current: "test", contexts: { test: context }, credentials: {} });
  }

  /** Every grant of the operator reaches this scope only, as soon as the member has seen it. */
  async limitTo(scope: string): Promise<void> {
    const file = this.#member.stack.operatorKeyFile.replace(/operator\/identity\.key$/, "trust.json");
    const trust = JSON.parse(await Deno.readTextFile(file));
    const [operator] = Object.keys(trust.principals).filter((id) => id.endsWith("/operator"));
    for (const grant of trust.principals[operator!].grants) grant.scope = scope;
    await Deno.writeTextFile(`${file}.new`, JSON.stringify(trust));
    await Deno.rename(`${file}.new`, file);
  }

  /** Runs a command; `told` hears what it prints while it runs. */
  async uc(words: readonly string[], signal?: AbortSignal, told: (result: Result) => void = () => {}): Promise<Result> {
    let out = "", err = "";
    const io: Io = {
      out: (text) => told({ code: -1, out: out += text, err }),
      err: (text) => told({ code: -1, out, err: err += text }),
      interactive: false,
      env: (name) => name === "UC_CONFIG" ? `${this.dir}/uc.json` : undefined,
      ask: () => undefined,
      signal: signal ?? new AbortController().signal,
    };
    const process = { exitCode: 0, stdout: { write: io.out }, stderr: { write: io.err } };
    await run(await buildUc(words), [...words], { io, process } as never);
    return { code: Number(process.exitCode), out, err };
  }

  async ok(...words: string[]): Promise<string> {
    const { code, out, err } = await this.uc(words);
    assert.equal(code, 0, `${words.join(" ")}: ${err}`);
    return out;
  }

  async fails(code: number, words: readonly string[], expected: RegExp): Promise<void> {
    const result = await this.uc(words);
    assert.match(result.err, expected, `${words.join(" ")}: ${result.err}${result.out}`);
    assert.deepEqual([result.code, result.out], [code, ""], words.join(" "));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#member[Symbol.asyncDispose]();
    await Deno.remove(this.dir, { recursive: true });
  }
}
