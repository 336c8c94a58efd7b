import assert from "node:assert/strict";
import { codeOf, world } from "./test_world.ts";

async function acme() {
  const w = await world();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  await root.projects.createProject({ org: "acme", name: "prod" });
  return { w, root, [Symbol.asyncDispose]: () => w[Symbol.asyncDispose]() };
}

Deno.test("a group's bindings count for its members while they are in it, and who joins gives nothing away", async () => {
  await using o = await acme();
  const { w, root } = o;
  const bob = await w.user("acme", "bob", { acme: "viewer" });
  await root.roles.createRole({ org: "acme", name: "grouper", permissions: ["iam.group.*"] });
  const carol = await w.user("acme", "carol", { acme: "grouper" });
  const group = await root.groups.createGroup({ org: "acme", name: "devs" });
  const principal = `group:${group.meta!.id}`;
  const binding = await root.roles.createBinding({ scope: "acme", role: "admin", principal });
  const rename = () =>
    codeOf(bob.projects.updateProject({ project: "acme/prod", updateMask: { paths: ["display_name"] } }));
  assert.equal(await rename(), "permission_denied/permission_denied");
  const add = { org: "acme", group: "devs", principal: bob.principal };
  // A group of administrators is not joined by who only manages groups.
  assert.equal(
    await codeOf(carol.groups.addGroupMember({ ...add, principal: carol.principal })),
    "permission_denied/escalation_refused",
  );
  await root.groups.addGroupMember(add);
  assert.deepEqual((await root.groups.addGroupMember(add)).members, [bob.principal]);
  assert.equal(await rename(), "ok");
  const answer = await root.decide.authorize({ principal: bob.principal, action: "iam.user.create", scope: "acme" });
  assert.deepEqual([answer.allowed, answer.bindingId], [true, binding.id]);
  assert.match(answer.reason, new RegExp(`through ${principal}`));
  // A member may bind what the group gave it.
  assert.equal(
    await codeOf(bob.roles.createBinding({ scope: "acme", role: "editor", principal: carol.principal })),
    "ok",
  );
  await root.groups.removeGroupMember(add);
  assert.equal(await rename(), "permission_denied/permission_denied");
  assert.match(
    await codeOf(root.groups.addGroupMember({ ...add, principal: "user:usr_01J00000000000000000000000" })),
    /^not_found/,
  );
  await root.groups.addGroupMember(add);
  await root.users.deleteUser({ org: "acme", user: "bob" });
  assert.deepEqual((await root.groups.getGroup({ org: "acme", group: "devs" })).members, []);
  await root.groups.deleteGroup({ org: "acme", group: "devs" });
  assert.deepEqual(
    (await root.roles.listBindings({ scope: "acme" })).bindings.filter((b) => b.principal === principal),
    [],
  );
});

Deno.test("a condition decides when and for what a binding counts; what it lends is not given on", async () => {
  await using o = await acme();
  const { w, root } = o;
  const bob = await w.user("acme", "bob");
  const until = String(w.clock.nowMs() + 60_000);
  const conditions = [{ key: "time", operator: "before", values: [until] }];
  const bind = { scope: "acme/prod", role: "admin", principal: bob.principal };
  await root.roles.createBinding({ ...bind, conditions });
  assert.equal(await codeOf(bob.projects.getProject({ project: "acme/prod" })), "ok");
  const carol = await w.user("acme", "carol");
  assert.equal(
    await codeOf(bob.roles.createBinding({ scope: "acme/prod", role: "viewer", principal: carol.principal })),
    "permission_denied/escalation_refused",
  );
  w.advance(61_000);
  assert.equal(await codeOf(bob.projects.getProject({ project: "acme/prod" })), "permission_denied/permission_denied");
  const told = await (await w.admin()).decide.authorize({
    principal: bob.principal,
    action: "iam.project.get",
    scope: "acme/prod",
  });
  assert.match(told.reason, /the conditions of the binding bind_.* do not hold/);

  const again = await w.admin();
  const tagged = [{ key: "context.env", operator: "equals", values: ["test"] }];
  await again.roles.createBinding({ ...bind, role: "viewer", conditions: tagged });
  const ask = async (context: Record<string, string>) =>
    (await again.decide.authorize({
      principal: bob.principal,
      action: "plasmavmc.vm.get",
      scope: "acme/prod",
      context,
    })).allowed;
  assert.deepEqual([await ask({ env: "test" }), await ask({ env: "prod" }), await ask({})], [true, false, false]);
  for (
    const [key, operator, values] of [
      ["colour", "equals", ["red"]],
      ["time", "equals", ["1"]],
      ["time", "before", ["soon"]],
      ["resource.name", "like", ["web"]],
      ["resource.name", "equals", []],
    ] as const
  ) {
    const refused = again.roles.createBinding({ ...bind, conditions: [{ key, operator, values: [...values] }] });
    assert.equal(await codeOf(refused), "invalid_argument/invalid_condition");
  }
});

Deno.test("a boundary caps what a principal may do and give, and it does not lift its own", async () => {
  await using o = await acme();
  const { w, root } = o;
  const bob = await w.user("acme", "bob", { acme: "admin" });
  const carol = await w.user("acme", "carol");
  const bound = { org: "acme", principal: bob.principal };
  await root.boundaries.setBoundary({
    ...bound,
    permissions: ["*.*.get", "*.*.list", "iam.binding.*", "iam.boundary.*"],
  });
  assert.equal(await codeOf(bob.projects.getProject({ project: "acme/prod" })), "ok");
  assert.equal(
    await codeOf(bob.projects.createProject({ org: "acme", name: "x" })),
    "permission_denied/permission_denied",
  );
  const told = await root.decide.authorize({ principal: bob.principal, action: "iam.project.create", scope: "acme" });
  assert.match(told.reason, /permission boundary/);
  const give = (role: string) => codeOf(bob.roles.createBinding({ scope: "acme", role, principal: carol.principal }));
  assert.equal(await give("admin"), "permission_denied/escalation_refused");
  assert.equal(await codeOf(bob.boundaries.deleteBoundary(bound)), "permission_denied/escalation_refused");
  assert.equal(
    await codeOf(bob.boundaries.setBoundary({ ...bound, permissions: ["*.*.*"] })),
    "permission_denied/escalation_refused",
  );
  // Nobody takes from who stands above.
  const admin = await root.tokens.whoAmI({});
  assert.match(
    await codeOf(bob.boundaries.setBoundary({ ...bound, principal: admin.principal, permissions: ["a.b.c"] })),
    /^not_found/,
  );
  assert.deepEqual((await root.boundaries.listBoundaries({ org: "acme" })).boundaries.map((b) => b.principal), [
    bob.principal,
  ]);
  await root.boundaries.deleteBoundary(bound);
  assert.equal(await codeOf(bob.projects.createProject({ org: "acme", name: "x" })), "ok");
  assert.equal(await codeOf(root.boundaries.deleteBoundary(bound)), "not_found/boundary_not_found");
});
