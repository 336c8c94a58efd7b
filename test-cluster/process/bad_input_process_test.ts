import assert from "node:assert/strict";
import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { createWorkloadSigner } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import { OrgService, ProjectService, TokenService, UserService } from "@ultracloud/proto/iam/v1";
import { VpcService } from "@ultracloud/proto/prismnet/v1";
import { ServerReflection } from "@ultracloud/proto/grpc/reflection/v1";
import { statusOf, waitForNode } from "@ultracloud/cli";
import { startTestCloud, type TestCloud } from "../cloud.ts";
import { cloudState } from "./_cloud_state.ts";
import { aimedAt, type Answer, filled, rawCall, wrongType } from "./_raw_call.ts";
import {
  anyonesMethods,
  everywhere,
  harmlessWhenEmpty,
  ownMethods,
  publicMethods,
  served,
  workloadFor,
  workloadsOnly,
} from "./_served.ts";

const goldenFile = new URL("../testdata/bad_input.txt", import.meta.url);
const place = { org: "victim", project: "victim/prod", name: "net" };
/** Places that exist, so that a request is judged by its other fields. */
const real = { org: place.org, project: place.project, database: "sys_prismnet", bucket: "records" };
const password = "correct horse battery staple 9";
/** Above the largest message any server takes. */
const oversized = new Uint8Array(24 * 1024 * 1024).fill(0x20);
const overlong = "x".repeat(5_000);
const hostile = "../\u0000\u001b[2J'; DROP TABLE kv; --";
/** Signed by nobody, with a name that would be worth having. */
const forged = `Bearer ${btoa('{"alg":"none","typ":"wl+jwt"}')}.${btoa('{"sub":"spiffe://test/svc/operator"}')}.`
  .replaceAll("=", "");
const callsAtOnce = 6;
const goldenHead =
  `# What each method answers, as code:detail, with full rights to an empty request, to one with overlong texts and the
# largest numbers, to one with hostile texts everywhere; and to a well-formed one of a user without any role.
# UC_UPDATE_GOLDEN=1 makes the bad input test write this file anew.
`;

interface Target {
  readonly component: string;
  readonly service: DescService;
  readonly method: DescMethod;
}
const nameOf = ({ service, method }: Target) => `${service.typeName}/${method.name}`;
const short = (answer: Answer) => answer.detail === "" ? answer.code : `${answer.code}:${answer.detail}`;

/** Tokens by component of everybody who calls. */
async function callers({ stack, session }: TestCloud) {
  const administrator = await session.bearer();
  const signers = new Map<string, Awaited<ReturnType<typeof createWorkloadSigner>>>();
  for (const name of ["operator", "plasmavmc", "vm-agent", "node-agent", "fleet-scheduler"]) {
    const keyFile = `${stack.dataDir}/etc/${name}/identity.key`;
    signers.set(name, await createWorkloadSigner({ clusterId: "test", name, keyFile }, { clock: systemClock }));
  }
  const { org, project, name } = place;
  await session.client(OrgService, "iam").createOrg({ name: org });
  await session.client(ProjectService, "iam").createProject({ org, name: project.split("/")[1]! });
  await session.client(VpcService, "prismnet").createVpc({ project, name });
  await session.client(UserService, "iam").createUser({ org, name: "stranger", password });
  const token = await session.anonymousClient(TokenService, "iam").login({ org, user: "stranger", password });
  return {
    stranger: `Bearer ${token.accessToken}`,
    entitled({ component, service, method }: Target): string | Promise<string> {
      const workload = workloadFor(component, service, method);
      return workload === undefined ? administrator : signers.get(workload)!.authorization(component)();
    },
  };
}

Deno.test("bad input to every RPC of every service is answered with its documented code and changes nothing", async (t) => {
  await using cloud = await startTestCloud(["fleet-scheduler", "node-agent", "fetcher"]);
  const { stack, session } = cloud;
  await waitForNode(session, 30_000);
  const { stranger, entitled } = await callers(cloud);
  const secrets = [(await Deno.readTextFile(stack.adminTokenFile)).trim(), password];
  const before = await cloudState(session, place.project);
  assert.equal(before.vpcs.length, 1, "the state sees what was made");
  assert.ok(
    Object.entries(before.keys).filter(([name]) => name.endsWith("/records")).every(([, keys]) => keys.length > 0),
  );
  const failures: string[] = [];
  const lines: string[] = [];

  const examine = async (target: Target) => {
    const { component, service, method } = target;
    const name = nameOf(target);
    const isPublic = publicMethods.has(name) || everywhere.includes(service);
    const call = async (what: string, body: string | Uint8Array<ArrayBuffer>, authorization?: string) => {
      const answer = await rawCall(stack.endpoint(component), service, method, body, authorization);
      const about = `${component} ${name}, ${what}: ${short(answer)}`;
      if (/^(internal|unknown|data_loss|http)/.test(answer.code)) {
        failures.push(`${about} ${answer.text.slice(0, 300)}`);
      }
      if (/\.ts:\d+|file:\/\/\/|node_modules/.test(answer.text)) failures.push(`${about} shows a stack trace`);
      if (secrets.some((secret) => answer.text.includes(secret))) failures.push(`${about} shows a secret`);
      return answer;
    };
    const expect = (what: string, answer: Answer, ...codes: string[]) => {
      if (!codes.includes(answer.code)) failures.push(`${component} ${name}, ${what}: ${short(answer)}`);
    };
    const aimed = JSON.stringify(aimedAt(method.input, place));
    const rights = await entitled(target);

    if (!isPublic) {
      expect("no credentials", await call("no credentials", "{}"), "unauthenticated");
      for (const token of ["Bearer x.y.z", forged, "Basic YWRtaW46YWRtaW4=", "Bearer " + "a".repeat(8_000)]) {
        expect(`token ${token.slice(0, 12)}`, await call("hostile token", "{}", token), "unauthenticated");
      }
    }
    expect("malformed JSON", await call("malformed JSON", '{"a":', rights), "invalid_argument");
    expect("wrong type", await call("wrong type", wrongType(method.input), rights), "invalid_argument");
    expect("unknown field", await call("unknown field", '{"noSuchField":1}', rights), "invalid_argument");
    expect("oversized", await call("oversized", oversized, rights), "resource_exhausted");

    const answers: Record<string, Answer> = {
      empty: await call("empty", "{}", rights),
      long: await call("long", JSON.stringify(filled(method.input, overlong, real)), rights),
      hostile: await call("hostile", JSON.stringify(filled(method.input, hostile)), rights),
    };
    if (workloadsOnly.has(component) && !isPublic) {
      expect("a person", await call("a person", aimed, stranger), "unauthenticated");
    } else if (!isPublic) {
      answers.stranger = await call("stranger", aimed, stranger);
      const codes = anyonesMethods.has(name)
        ? ["ok"]
        : ownMethods.has(name)
        ? ["invalid_argument"]
        : ["not_found", "permission_denied"];
      expect("stranger", answers.stranger, ...codes);
      if (answers.stranger.code === "ok" && answers.stranger.text.includes(`"${place.org}"`)) {
        failures.push(`${component} ${name}, stranger: sees ${answers.stranger.text.slice(0, 300)}`);
      }
    }
    const changing = !isPublic && method.idempotency !== MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS;
    for (const what of changing ? ["empty", "long", "hostile"] : []) {
      // A request without fields is always the empty one.
      const isEmpty = what === "empty" || method.input.fields.length === 0;
      if (isEmpty && harmlessWhenEmpty.has(name)) continue;
      if (answers[what]!.code === "ok") failures.push(`${component} ${name}, ${what}: accepted`);
    }
    lines.push(
      `${component} ${name} ${Object.entries(answers).map(([what, answer]) => `${what}=${short(answer)}`).join(" ")}`,
    );
  };

  for (const [component, services] of Object.entries(served)) {
    await t.step(component, async () => {
      const listed = await servicesOf(stack.endpoint(component));
      const known = [...services.map((s) => s.typeName), ServerReflection.typeName].sort();
      assert.deepEqual(listed, known, `services of ${component} by its own account`);
      const targets = [...services, ...everywhere].flatMap((service) =>
        service.methods.map((method): Target => ({ component, service, method }))
      );
      const queue = targets.values();
      await Promise.all(Array.from({ length: callsAtOnce }, async () => {
        for (const target of queue) await examine(target);
      }));
    });
  }

  await t.step("no answer was an internal error, and each had its code", () => assert.deepEqual(failures, []));
  await t.step("the answers are those of the golden file", async () => {
    const text = `${goldenHead}${lines.sort().join("\n")}\n`;
    if (Deno.env.get("UC_UPDATE_GOLDEN") === "1") await Deno.writeTextFile(goldenFile, text);
    assert.equal(text, await Deno.readTextFile(goldenFile), "UC_UPDATE_GOLDEN=1 writes the file anew");
  });
  await t.step("nothing changed, and every component is still ready", async () => {
    assert.deepEqual(await cloudState(session, place.project), before);
    const status = await statusOf(session);
    assert.deepEqual(status.filter((s) => s.health !== "ready"), []);
  });
});

/** The services a server names by reflection, sorted. */
async function servicesOf(url: string): Promise<string[]> {
  const method = ServerReflection.methods[0]!;
  const { text } = await rawCall(url, ServerReflection, method, '{"listServices":""}');
  return [...text.matchAll(/"name":"([\w.]+)"/g)].map((m) => m[1]!).sort();
}
