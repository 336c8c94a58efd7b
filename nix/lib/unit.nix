# The systemd unit of a component as its component.json says: who it runs as, what it may write, what it may call. A test
# compares this, as evaluated in every system, with what a Deno function makes of the same manifest. Pure builtins.
#
# What a program in `run` needs of its host stands in programs.json: `network` (links and taps), `machines` (QEMU),
# `processes` (those of others), `host` (changes the system itself, so that a sandbox around it would be a pretence).
{ fleet }:
let
  inherit (builtins) any attrNames attrValues concatLists elem filter fromJSON head map match readFile;
  placement = import ./placement.nix { inherit fleet; };
  inherit (placement) resolve runDir runsDir stateDir unique;
  programs = fromJSON (readFile ./programs.json);
  ownProgram = program: match "[$][{]dir[.]config[}]/(.*)" program;
  only = condition: list: if condition then list else [ ];

  needsOf = name:
    let
      inherit (fleet.${name}) manifest;
      of = program:
        # A helper of the component starts what it is told: services of the hosts.
        if ownProgram program != null then [ "host" ]
        else if programs ? ${program} then programs.${program}.needs
        else throw "Cannot say what ${name} needs: nix/lib/programs.json has no ${program}, of its component.json";
      # Writes what belongs to others or to the system: a boot entry, certificates that each get their reader's owner.
      keeps = only (any (path: match "/.*|[$][{]dir[.]etc[}].*" path != null) manifest.write) [ "files" ];
    in unique (concatLists (map of manifest.run) ++ keeps);

  # Components whose run directory the paths of `name` lie in: it needs their group.
  partners = name:
    let
      inherit (fleet.${name}) manifest;
      others = path: let found = match "[$][{]dir[.]runs[}]/([a-z0-9-]+)/.*" path; in only (found != null && head found != name) found;
    in unique (concatLists (map others (manifest.sockets ++ manifest.write ++ manifest.read)));
  isShared = name: any (other: elem name (partners other)) (attrNames fleet);
  dirOf = path: head (match "(.*)/[^/]*" path);
in
rec {
  inherit needsOf programs ownProgram partners;
  userOf = name: if any (need: elem need [ "host" "files" ]) (needsOf name) then "root" else "uc-${name}";

  # Names of nixpkgs attributes that go on the unit's PATH.
  packagesOf = name: unique (filter (package: package != null) (map (program: programs.${program}.package)
    (filter (program: ownProgram program == null) fleet.${name}.manifest.run)));
  helpersOf = name: concatLists (map (program: only (ownProgram program != null) (ownProgram program)) fleet.${name}.manifest.run);

  firewallOf = name:
    let listeners = attrValues fleet.${name}.manifest.listen;
    in {
      tcp = map (listener: listener.port) listeners;
      udp = map (listener: listener.port) (filter (listener: listener.scheme == "dns") listeners);
    };

  # It drives the switch that would restart it.
  drivesSwitch = name: elem "systemd-run" fleet.${name}.manifest.run;
  # Its guests, daemons and instances outlive it, and it finds them again.
  leavesChildren = name: any (need: elem need [ "network" "machines" ]) (needsOf name) || helpersOf name != [ ];

  serviceConfigOf = name:
    let
      inherit (fleet.${name}) manifest;
      needs = needsOf name;
      has = need: elem need needs;
      user = userOf name;
      speaks = manifest.listen != { } || manifest.calls != [ ] || manifest.netExtra != [ ];
      lowPort = any (listener: listener.port < 1024) (attrValues manifest.listen);
      elsewhere = path: match "${stateDir name}(/.*)?|${runDir name}(/.*)?" path == null;
      # A socket is made by its owner: the directory is there before it.
      place = path: if match "${runsDir}/.*" path == null then path else dirOf path;
      capabilities = only (has "network") [ "CAP_NET_ADMIN" "CAP_NET_RAW" ]
        ++ only lowPort [ "CAP_NET_BIND_SERVICE" ]
        ++ only (has "files") [ "CAP_CHOWN" "CAP_DAC_OVERRIDE" "CAP_FOWNER" ];

      always = {
        Type = if manifest.kind == "tool" then "oneshot" else "exec";
        User = user;
        Group = if user == "root" then "root" else user;
        SupplementaryGroups = map (partner: "uc-${partner}") (partners name) ++ only (has "machines") [ "kvm" ];
        StateDirectory = "ultracloud/${name}";
        StateDirectoryMode = "0700";
        RuntimeDirectory = "ultracloud/${name}";
        RuntimeDirectoryMode = if isShared name then "0750" else "0700";
        # A tool ends before anybody could ask it who it is.
        LoadCredential = only (manifest.kind != "tool") [ "identity.key" ];
        LockPersonality = true;
        RestrictRealtime = true;
        SystemCallArchitectures = "native";
      }
      // (if manifest.kind == "tool" then { RemainAfterExit = true; } else { Restart = "on-failure"; RestartSec = 1; })
      // (if leavesChildren name then { KillMode = "process"; RuntimeDirectoryPreserve = "yes"; } else { });

      confined = {
        UMask = if isShared name then "0007" else "0077";
        NoNewPrivileges = true;
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        PrivateDevices = !(has "network" || has "machines");
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = !(has "network");
        ProtectProc = if has "processes" then "default" else "invisible";
        RestrictNamespaces = true;
        RestrictSUIDSGID = true;
        # Unix sockets carry the journal and names of hosts.
        RestrictAddressFamilies = [ "AF_UNIX" ] ++ only speaks [ "AF_INET" "AF_INET6" ] ++ only (has "network") [ "AF_NETLINK" "AF_PACKET" ];
        # V8 guards the pages of its compiler with keys where the processor has them.
        SystemCallFilter = [ "@system-service" "@pkey" ];
        SystemCallErrorNumber = "EPERM";
        # An empty list would write no line at all, and leave the unit everything.
        CapabilityBoundingSet = if capabilities == [ ] then "" else capabilities;
        AmbientCapabilities = if user == "root" || capabilities == [ ] then "" else capabilities;
        # "-": the owner of the directory may start later.
        ReadWritePaths = unique (map (path: "-${place path}") (filter elsewhere (map (resolve name) manifest.write)));
      }
      // (if has "network" || has "machines" then {
        DevicePolicy = "closed";
        DeviceAllow = [ "/dev/net/tun rw" ] ++ only (has "machines") [ "/dev/kvm rw" ];
      } else { });
    in
    always // (if has "host" then { UMask = "0022"; } else confined);
}
