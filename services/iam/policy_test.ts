import assert from "node:assert/strict";
import { codeOf, until, world } from "./test_world.ts";

Deno.test("CreateBinding() gives away only what the caller holds at that scope", async () => {
  await using w = await world();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  await root.projects.createProject({ org: "acme", name: "prod" });
  await root.roles.createRole({
    org: "acme",
    name: "delegate",
    permissions: ["iam.binding.*", "plasmavmc.vm.start", "iam.service_account.*", "iam.api_key.*"],
  });
  await root.roles.createRole({ org: "acme", name: "starter", permissions: ["plasmavmc.vm.start"] });
  const bob = await w.user("acme", "bob", { acme: "delegate" });
  const give = (role: string, scope: string, principal = bob.principal) =>
    codeOf(bob.roles.createBinding({ scope, role, principal }));
  assert.equal(await give("starter", "acme/prod"), "ok");
  assert.equal(await give("starter", "acme/prod"), "already_exists/binding_exists");
  for (const role of ["admin", "editor", "viewer"]) {
    assert.equal(await give(role, "acme/prod"), "permission_denied/escalation_refused");
  }
  assert.equal(await give("starter", ""), "permission_denied/permission_denied");
  assert.match(await give("absent", "acme"), /^not_found/);
  assert.equal(await give("starter", "acme/absent"), "not_found/project_not_found");
  assert.equal(await give("starter", "acme", "user:usr_01J00000000000000000000000"), "not_found/principal_not_found");
  assert.equal(await give("starter", "acme", "bob"), "invalid_argument/invalid_principal");
  assert.equal(await give("starter", "acme//x"), "invalid_argument/invalid_scope");

  // A key of an account is all that the account may do.
  const account = await root.accounts.createServiceAccount({ project: "acme/prod", name: "ci" });
  const ask = { project: "acme/prod", serviceAccount: "ci" };
  assert.equal(await codeOf(bob.accounts.createApiKey(ask)), "ok");
  await root.roles.createBinding({
    scope: "acme",
    role: "admin",
    principal: `service_account:${account.meta!.id}`,
  });
  assert.equal(await codeOf(bob.accounts.createApiKey(ask)), "permission_denied/escalation_refused");
});

Deno.test("a deny wins, reaches nobody above its maker, and is lifted only by who holds what it takes", async () => {
  await using w = await world();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  await root.projects.createProject({ org: "acme", name: "prod" });
  const { principal: rootPrincipal } = await root.tokens.whoAmI({});
  const alice = await w.user("acme", "alice", { acme: "admin" });
  const bob = await w.user("acme", "bob", { acme: "viewer" });
  const deny = await alice.roles.createBinding({
    scope: "acme/prod",
    role: "viewer",
    principal: bob.principal,
    deny: true,
  });
  assert.equal(await codeOf(bob.projects.getProject({ project: "acme/prod" })), "permission_denied/permission_denied");
  const answer = await alice.decide.authorize({
    principal: bob.principal,
    action: "plasmavmc.vm.get",
    scope: "acme/prod",
  });
  assert.deepEqual([answer.allowed, answer.bindingId], [false, deny.id]);
  assert.match(answer.reason, /Denied/);
  // By its id the same resource would not be denied.
  const narrow = { scope: "acme/prod/plasmavmc/vm/web", role: "viewer", principal: bob.principal, deny: true };
  assert.equal(await codeOf(alice.roles.createBinding(narrow)), "invalid_argument/deny_too_narrow");
  assert.equal(
    await codeOf(alice.roles.createBinding({ scope: "acme", role: "admin", principal: rootPrincipal, deny: true })),
    "permission_denied/escalation_refused",
  );
  await root.roles.createRole({ org: "acme", name: "binder", permissions: ["iam.binding.*"] });
  await root.roles.createBinding({ scope: "acme", role: "binder", principal: bob.principal });
  assert.equal(
    await codeOf(bob.roles.deleteBinding({ scope: "acme/prod", id: deny.id })),
    "permission_denied/escalation_refused",
  );
  assert.match(await codeOf(alice.roles.deleteBinding({ scope: "acme", id: deny.id })), /^not_found/);
  await alice.roles.deleteBinding({ scope: "acme/prod", id: deny.id });
  assert.equal(await codeOf(bob.projects.getProject({ project: "acme/prod" })), "ok");
});

Deno.test("roles: built-in names are taken, a role in use stays, the list shows both kinds", async () => {
  await using w = await world();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  const make = (name: string, permissions: string[]) =>
    codeOf(root.roles.createRole({ org: "acme", name, permissions }));
  assert.equal(await make("admin", ["a.b.c"]), "invalid_argument/invalid_name");
  assert.equal(await make("empty", []), "invalid_argument/invalid_field");
  assert.equal(await make("odd", ["everything"]), "invalid_argument/invalid_permission");
  // A name every JavaScript object has is a name like any other.
  assert.equal(await make("constructor", ["plasmavmc.vm.get"]), "ok");
  const bob = await w.user("acme", "bob", { acme: "constructor" });
  assert.equal(
    await codeOf(root.roles.deleteRole({ org: "acme", name: "constructor" })),
    "failed_precondition/role_in_use",
  );
  const { bindings } = await root.roles.listBindings({ scope: "acme" });
  assert.deepEqual(bindings.map((b) => [b.principal, b.role]), [[bob.principal, "constructor"]]);
  await root.users.deleteUser({ org: "acme", user: "bob" });
  assert.deepEqual((await root.roles.listBindings({ scope: "acme" })).bindings, []);
  assert.deepEqual((await root.roles.listRoles({ org: "acme" })).roles.map((r) => r.name).sort(), [
    "admin",
    "auditor",
    "constructor",
    "editor",
    "operator",
    "viewer",
  ]);
  await root.roles.deleteRole({ org: "acme", name: "constructor" });
  assert.equal((await root.roles.getRole({ org: "", name: "admin" })).builtIn, true);
  // Each service has the roles for itself alone.
  assert.deepEqual((await root.roles.getRole({ org: "acme", name: "plasmavmc.admin" })).permissions, ["plasmavmc.*.*"]);
  const carol = await w.user("acme", "carol", { acme: "iam.viewer" });
  assert.equal(await codeOf(carol.orgs.getOrg({ org: "acme" })), "ok");
  const give = (role: string) => codeOf(root.roles.createBinding({ scope: "acme", role, principal: carol.principal }));
  assert.equal(await give("prismnet.editor"), "ok");
  assert.match(await give("nosuch.viewer"), /^not_found/);
});

Deno.test("Authorize() answers about oneself to anyone, about others to who may explain", async () => {
  await using w = await world();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  const alice = await w.user("acme", "alice", { acme: "admin" });
  const bob = await w.user("acme", "bob", { acme: "viewer" });
  const ask = (principal: string) => ({ principal, action: "plasmavmc.vm.create", scope: "acme" });
  assert.equal((await bob.decide.authorize(ask(bob.principal))).allowed, false);
  assert.equal(await codeOf(bob.decide.authorize(ask(alice.principal))), "permission_denied/permission_denied");
  const { responses } = await alice.decide.batchAuthorize({ requests: [ask(alice.principal), ask(bob.principal)] });
  assert.deepEqual(responses.map((r) => r.allowed), [true, false]);
  assert.match(responses[0]!.reason, /admin/);
  assert.equal(
    await codeOf(alice.decide.authorize({ ...ask(alice.principal), action: "x" })),
    "invalid_argument/invalid_permission",
  );
});

Deno.test("GetPolicySnapshot() is for granted components, and waits for news", async () => {
  await using w = await world();
  const root = await w.admin();
  const plasmavmc = w.as((await w.signer("plasmavmc")).authorization("iam"));
  const agent = w.as((await w.signer("vm-agent")).authorization("iam"));
  assert.equal(await codeOf(agent.policy.getPolicySnapshot({})), "permission_denied/permission_denied");
  assert.equal(await codeOf(root.policy.getPolicySnapshot({})), "permission_denied/workloads_only");
  const now = await plasmavmc.policy.getPolicySnapshot({});
  assert.ok(now.snapshotJws.split(".").length === 3);
  const same = await plasmavmc.policy.getPolicySnapshot({ afterVersion: now.version, waitMs: 20 });
  assert.deepEqual([same.version, same.snapshotJws], [now.version, ""]);
  const waiting = plasmavmc.policy.getPolicySnapshot({ afterVersion: now.version, waitMs: 9_000 });
  await root.orgs.createOrg({ name: "acme" });
  await root.roles.createRole({ org: "acme", name: "any", permissions: ["*.*.get"] });
  assert.ok((await waiting).version > now.version);
  assert.equal(
    await codeOf(plasmavmc.policy.getPolicySnapshot({ waitMs: 60_000 })),
    "invalid_argument/invalid_field",
  );
});

Deno.test("replicas over one store share keys and policy, and one with another master key says so", async () => {
  await using w = await world();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  const second = await w.replica();
  const bob = await w.user("acme", "bob", { acme: "viewer" });
  await until("the other replica has the policy", () => second.iam.policy.version === w.first.iam.policy.version);
  const { accessToken } = await second.as("").tokens.login({
    org: "acme",
    user: "bob",
    password: "correct horse battery",
  });
  assert.equal((await w.as(accessToken).tokens.whoAmI({})).principal, bob.principal);
  assert.deepEqual(second.iam.policy.present().snapshot.keys, w.first.iam.policy.present().snapshot.keys);
  const odd = await w.replica({ masterKey: new Uint8Array(32), waitReady: false });
  await until("it says why", () => /master key/.test(odd.health.snapshot().parts.policy?.reason ?? ""));
});
