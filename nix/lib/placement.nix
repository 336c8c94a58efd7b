# Where packages and units put a component, and the Deno flags that follow from it: `productionPlacement` and
# `permissionsOf` of the workspace, in pure builtins. A test holds both against each other for every component.
{ fleet }:
let
  inherit (builtins)
    attrValues concatLists concatStringsSep elem elemAt foldl' genList head lessThan map match replaceStrings sort
    stringLength toString;

  etcDir = "/etc/ultracloud";
  runsDir = "/run/ultracloud";
  unique = foldl' (list: item: if elem item list then list else list ++ [ item ]) [ ];
  listed = list: concatStringsSep "," (sort lessThan (unique list));

  listenerPort = callee:
    let
      parts = match "([a-z0-9-]+)[.]([a-z]+)" callee;
      component = head parts;
      listener = elemAt parts 1;
    in
    if fleet ? ${component} && fleet.${component}.manifest.listen ? ${listener}
    then fleet.${component}.manifest.listen.${listener}.port
    else throw "Cannot place ${callee}: no component has that listener";

  # `a-{00..03}` is four paths.
  padded = width: number:
    let text = toString number;
    in concatStringsSep "" (genList (_: "0") (if width > stringLength text then width - stringLength text else 0)) + text;
  number = text: builtins.fromJSON (let found = match "0*([1-9][0-9]*)" text; in if found == null then "0" else head found);
  expandRange = text:
    let parts = match "(.*)[{]([0-9]+)[.][.]([0-9]+)[}](.*)" text;
    in
    if parts == null then [ text ]
    else
      let from = number (elemAt parts 1); to = number (elemAt parts 2);
      in genList (i: "${head parts}${padded (stringLength (elemAt parts 1)) (from + i)}${elemAt parts 3}") (to - from + 1);
in
rec {
  inherit etcDir runsDir listenerPort expandRange unique;
  configDir = name: "${etcDir}/${name}";
  stateDir = name: "/var/lib/ultracloud/${name}";
  runDir = name: "${runsDir}/${name}";
  trustFile = "${etcDir}/trust.json";
  # Where systemd puts what a unit loads by LoadCredential.
  credentialsDir = name: "/run/credentials/${name}.service";

  resolve = name: text:
    let
      filled = replaceStrings
        [ "\${dir.config}" "\${dir.etc}" "\${dir.state}" "\${dir.run}" "\${dir.runs}" "\${file.trust}" ]
        [ (configDir name) etcDir (stateDir name) (runDir name) runsDir trustFile ]
        text;
      unknown = match ".*[$][{]([^}]+)[}].*" filled;
    in if unknown == null then filled else throw "Cannot resolve \${${head unknown}} of ${name}";

  # The flags that grant exactly what the manifest asks for; `site.listen` is the address the node binds, `site.peers`
  # the network its peers are in.
  permissionsOf = site: name:
    let
      inherit (fleet.${name}) manifest;
      all = map (resolve name);
      net = map (listener: "${site.listen}:${toString listener.port}") (attrValues manifest.listen)
        ++ map (callee: "${site.peers}:${toString (listenerPort callee)}") manifest.calls
        ++ all manifest.netExtra
        ++ map (path: "unix:${path}") (all (concatLists (map expandRange manifest.sockets)));
      write = [ (stateDir name) (runDir name) ] ++ all manifest.write;
      read = [ (configDir name) (credentialsDir name) trustFile ] ++ write ++ all manifest.read;
      some = flag: list: if list == [ ] then [ ] else [ "--${flag}=${listed list}" ];
    in
    [ "--no-prompt" "--no-remote" ]
    ++ some "allow-net" net
    ++ some "allow-read" read
    ++ some "allow-write" write
    ++ some "allow-env" ([ "UC_${replaceStrings lower upper (replaceStrings [ "-" ] [ "_" ] name)}_*" ] ++ manifest.env)
    ++ some "allow-run" (all manifest.run)
    ++ some "allow-sys" manifest.sys
    ++ (if manifest.v8 == [ ] then [ ] else [ "--v8-flags=${concatStringsSep "," manifest.v8}" ]);

  lower = [ "a" "b" "c" "d" "e" "f" "g" "h" "i" "j" "k" "l" "m" "n" "o" "p" "q" "r" "s" "t" "u" "v" "w" "x" "y" "z" ];
  upper = [ "A" "B" "C" "D" "E" "F" "G" "H" "I" "J" "K" "L" "M" "N" "O" "P" "Q" "R" "S" "T" "U" "V" "W" "X" "Y" "Z" ];
}
