"""Secrets for tests: made from a seed, in every syntax in which a target may show one, and a search for what is left of them.

A specimen is a text with ``{}`` where the secret goes, and the shapes of secrets that its syntax allows. The shapes hold what ends a
word elsewhere: blanks, commas, quotes, ``&``, ``;``, ``@``, slashes.
"""

from __future__ import annotations

import base64
import json
import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

#: Between two parts of a secret. Either part must be gone.
SHAPES = {
    "plain": "", "blank": " ", "comma": ",", "semicolon": ";", "ampersand": "&", "slash": "/", "at": "@", "colon": ":", "quote": "'",
    "double": '"', "percent": "%", "equals": "=", "dollar": "$", "backslash": "\\", "bracket": "]", "hash": "#", "less": "<",
}  # fmt: skip
ALL = tuple(SHAPES)
WORD = ("plain", "comma", "semicolon", "ampersand", "slash", "at", "colon", "percent", "equals", "dollar", "hash")
URL = ("plain", "slash", "at", "colon", "percent", "comma", "semicolon", "ampersand", "equals", "dollar")
LINE = tuple(shape for shape in SHAPES if shape not in ("less",))
UNQUOTED = tuple(shape for shape in LINE if shape not in ("quote", "double"))


@dataclass(frozen=True)
class Specimen:
    """One way to show a secret. ``encode`` writes the secret as the syntax wants it."""

    kind: str
    text: str
    shapes: tuple[str, ...] = ("plain",)
    encode: str = ""

    def show(self, secret: str) -> str:
        """Return the text with *secret* in it."""
        encoded = {
            "xml": lambda: escape(secret),
            "attribute": lambda: quoteattr(secret)[1:-1] if "'" in secret or '"' in secret else escape(secret),
            "json": lambda: json.dumps(secret)[1:-1],
            "qemu": lambda: secret.replace(",", ",,"),
            "url": lambda: quote(secret, safe=""),
            "hex": lambda: secret.encode().hex(),
            "": lambda: secret,
        }[self.encode]()
        return self.text.replace("{}", encoded)


_NOT_HEX = "ghijkmnopqrstuvwxyzGHJKLMNPQRSTUVWXYZ"


def secret(seed: str, shape: str) -> str:
    """Return a secret of two parts of ten characters, parted as the *shape* says."""
    chance = random.Random(seed)
    if shape == "number":
        return "9" + "".join(chance.choices(string.digits, k=17))
    if shape == "upper":
        return "".join(chance.choices("GHJKLMNPQRSTUVWXYZ2345", k=14))

    def word() -> str:  # no six characters of it are a hexadecimal number: those of digests would be taken for it
        return "".join(chance.choice(_NOT_HEX if place % 3 == 0 else string.ascii_letters + string.digits) for place in range(8))

    parts = [chance.choice("GHJKLMNPQRSTUVWXYZ") + word() + chance.choice("23456789") for _ in "ab"]
    return SHAPES[shape].join(parts)


def parts(secret: str) -> list[str]:
    """Return what a secret consists of besides signs."""
    return re.findall(r"[A-Za-z0-9]+", secret)


def forms(part: str) -> Iterator[str]:
    """Yield what *part* looks like when something has encoded it."""
    yield part
    yield part[::-1]
    yield part.encode().hex()
    for before in ("", "x", "xx"):  # Base64 of a text that holds it begins at any of three places
        body = base64.b64encode((before + part).encode()).decode()
        yield body[(0, 2, 3)[len(before)] : -4]


def leaks(secret: str, text: str) -> list[str]:
    """Return what of *secret* can be found in *text*: any six characters of it in a row, as they are or encoded."""
    low = text.lower()
    found = []
    for part in parts(secret):
        for place in range(len(part) - 5):
            found += [piece for piece in (part[place : place + 6],) if piece in text]
        found += [form for form in forms(part) if len(form) >= 6 and form.lower() in low]
    return found


#: Free text: logs, errors, arguments in one line.
LOG = (
    Specimen("assignment", "login failed: password={}", UNQUOTED),
    Specimen("assignment", "passwd = {}", UNQUOTED),
    Specimen("colon", "Password: {}", UNQUOTED),
    Specimen("quoted", 'vnc_password = "{}"', tuple(set(LINE) - {"double", "backslash"})),
    Specimen("single quoted", "secret='{}' and more", tuple(set(LINE) - {"quote", "backslash"})),
    Specimen("escaped", '"error: {\\"password\\": \\"{}\\"}"', ("plain", "blank", "comma", "semicolon")),
    Specimen("json in a log", 'got {"user": "u", "password": "{}", "x": 1}', ALL, "json"),
    Specimen("json data first", '-object {"data":"{}","qom-type":"secret","id":"s0"}', ALL, "json"),
    Specimen("qemu secret", "-object secret,id=s0,data={},format=raw", UNQUOTED, "qemu"),
    Specimen("fw_cfg", "-fw_cfg name=opt/com.coreos/config,string={}", UNQUOTED, "qemu"),
    Specimen("smbios", "-smbios type=11,value=io.systemd.credential:passwd={}", UNQUOTED, "qemu"),
    Specimen("credential", "io.systemd.credential.binary:vault={}", UNQUOTED),
    Specimen("set_credential", "systemd.set_credential=x:{}", UNQUOTED),
    Specimen("option", "/usr/bin/vault login --password {} --user u", tuple(set(UNQUOTED) - {"blank"})),
    Specimen("option equals", "run --api-token={}", UNQUOTED),
    Specimen("dash p", "sshpass -p {} ssh k", WORD),
    Specimen("dash p", "exec: mysql -u root -p{}", WORD),
    Specimen("dash p", "COMMAND=/usr/bin/virt-tool -p {}", WORD),
    Specimen("curl", "curl -u bob:{} https://x", WORD),
    Specimen("ipmitool", "ipmitool -H bmc -U ADMIN -P {} power", WORD),
    Specimen("ldap", "ldapsearch -x -D cn=x -w {}", WORD),
    Specimen("url", "GET https://bob:{}@mirror/x", URL),
    Specimen("url", "connect to qemu+ssh://root:{}@kvm/system failed", URL),
    Specimen("url encoded colon", "ssh://root%3A{}@kvm", URL),
    Specimen("url token", "deb https://{}@mirror/x y", ("plain", "slash", "at", "percent")),
    Specimen("two urls", "deb http://a:{}@b/ c https://d/ e", URL),
    Specimen("rtsp", "rtsp://cam:{}@10.0.0.1/1", URL),
    Specimen("amqp", "transport_url = rabbit://nova:{}@c:5672/", URL),
    Specimen("no scheme", "rsync bob:{}@host::x", ("plain", "slash", "at", "comma")),
    Specimen("query", "GET /x?token={}&y=1", ("plain", "percent", "slash", "colon", "equals")),
    Specimen("authorization", "Authorization: Basic {}", UNQUOTED),
    Specimen("authorization", "Proxy-Authorization: Bearer {}", UNQUOTED),
    Specimen("auth token", "X-Auth-Token: {}", UNQUOTED),
    Specimen("cookie", "Set-Cookie: sid={}; Path=/", UNQUOTED),
    Specimen("bearer", "sent Bearer {} to x", ("plain", "slash", "equals")),
    Specimen("jwt", "token was eyJhbGciOiJIUzI1NiJ9.{}.c2ln", ("plain",)),
    Specimen("jwt", "user eyJhbGciOiJIUzI1NiJ9.eyJz{}.x said hello"),
    Specimen("prose", "the password is {}", UNQUOTED),
    Specimen("prose", "password for root is {}", UNQUOTED),
    Specimen("word", "token {}", UNQUOTED),
    Specimen("word", "requirepass {}", UNQUOTED),
    Specimen("word", "passphrase {}", UNQUOTED),
    Specimen("netrc", "machine m login l password {}", UNQUOTED),
    Specimen("snmp", "rocommunity {} 10.0.0.0/8", UNQUOTED),
    Specimen("snmp", 'createUser u SHA "{}" AES "x"', ("plain", "blank", "comma")),
    Specimen("aws", "aws_secret_access_key = {}", UNQUOTED),
    Specimen("aws", "AWS_SECRET_ACCESS_KEY={}", UNQUOTED),
    Specimen("aws id", "using AKIA{}XYZ", ("upper",)),
    Specimen("github", "remote: ghp_{}{} rejected"),
    Specimen("gitlab", "glpat-{}{} expired"),
    Specimen("slack", "xoxb-1234-{}"),
    Specimen("crypt", "root:$6$rounds=5000$salt${}:19000:0", ("plain", "slash")),
    Specimen("crypt", "user $2b$12${} changed"),
    Specimen("yescrypt", "x:$y$j9T$s${}/abc:1"),
    Specimen("htpasswd", "bob:$apr1$s${}"),
    Specimen("ssha", "userPassword: {SSHA}{}=="),
    Specimen("chap", "node.session.auth.password = {}", UNQUOTED),
    Specimen("chap", "discovery.sendtargets.auth.password_in={}", UNQUOTED),
    Specimen("ceph", "key = AQ{}{}AAAA=="),
    Specimen("rbd", "rbd:vms/a:id=admin:key=AQ{}{}AA==:auth_supported=cephx"),
    Specimen("iscsi", "netroot=iscsi:user:{}@10.0.0.1::3260::iqn", ("plain", "slash", "at")),
    Specimen("psk", "psk={}", UNQUOTED),
    Specimen("wpa", "wpa_passphrase={}", UNQUOTED),
    Specimen("wireguard", "PrivateKey = {}=", UNQUOTED),
    Specimen("wireguard", "PresharedKey = {}=", UNQUOTED),
    Specimen("ldap", "bindpw {}", UNQUOTED),
    Specimen("ldap", "ldapdb_pw: {}", UNQUOTED),
    Specimen("kickstart", "rootpw={}", UNQUOTED),
    Specimen("suffix", "db_pass={}", UNQUOTED),
    Specimen("environment", "Environment=DB_PASSWORD={}", UNQUOTED),
    Specimen("environment", 'Environment="API_KEY={}" "B=c"', ("plain", "blank", "comma")),
    Specimen("ptp", "sa_file key: authkey={}", UNQUOTED),
    Specimen("chrony keys", "1 SHA256 HEX:{}{}"),
    Specimen("xml in a log", "<graphics type='vnc' passwd='{}'/>", ("plain", "blank", "comma", "semicolon", "slash")),
    Specimen("xml in a log", "<password>{}</password>", ("plain", "blank", "comma", "semicolon", "slash")),
    Specimen("private key", "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n{}\n-----END OPENSSH PRIVATE KEY-----"),
    Specimen("private key in a line", "key: -----BEGIN RSA PRIVATE KEY-----\\n{}\\n-----END RSA PRIVATE KEY-----"),
    Specimen("private key, cut", "-----BEGIN EC PRIVATE KEY-----\nMHcCAQ{}"),
    Specimen("private key, pgp", "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{}\n-----END PGP PRIVATE KEY BLOCK-----"),
    Specimen("base64 line", "aB3{}{}kLmN0pQrStUvWxYz12345"),
    Specimen("cifs", "mount -o username=u,password={} //s/x", UNQUOTED),
    Specimen("luks", "luks_key={}", UNQUOTED),
    Specimen("hex key", "shared key 0x{}", ("plain",), "hex"),
    Specimen("vault", "hvs.{}{}"),
    Specimen("proxy", "http_proxy=http://u:{}@proxy:3128", URL),
    Specimen("openstack", "OS_PASSWORD={}", UNQUOTED),
    Specimen("yaml", "chpasswd: {password: {}}", UNQUOTED),
    Specimen("cloud-init", "passwd: {}", UNQUOTED),
    Specimen("connection string", "Server=x;User Id=u;Password={};", UNQUOTED),
    Specimen("pin", "pin={}", UNQUOTED),
    Specimen("session", "session_key: {}", UNQUOTED),
    Specimen("corosync", "secretkey={}", UNQUOTED),
    Specimen("ipmi", "ipmi_password={}", UNQUOTED),
    Specimen("virsh", "COMMAND=/usr/bin/virsh secret-set-value u {}", UNQUOTED),
    Specimen("virsh", "virsh set-user-password web root {}", UNQUOTED),
    Specimen("chpasswd", "echo root:{} | chpasswd", UNQUOTED),
    Specimen("stdin", "echo {} | passwd --stdin root", UNQUOTED),
    Specimen("openssl", "openssl enc -k {}", UNQUOTED),
    Specimen("smbclient", "smbclient //s/x -U bob%{}", UNQUOTED),
    Specimen("iscsiadm", "iscsiadm -m node -o update -n node.session.auth.password -v {}", UNQUOTED),
    Specimen("signature", "GET /x?sig={}&se=1", ("plain", "percent", "slash")),
    Specimen("azure", "AccountKey={}=;SharedAccessSignature={}", UNQUOTED),
    Specimen("webhook", "POST https://hooks.slack.com/services/T00000/B00000/{}"),
    Specimen("audit command", "type=USER_CMD msg=audit(1.1:1): cmd={} libvirt", ("plain",), "hex"),
    Specimen("proctitle", "type=PROCTITLE msg=audit(1.1:1): proctitle={}", ("plain",), "hex"),
    Specimen("execve", 'type=EXECVE msg=audit(1.1:1): argc=3 a0="x" a1="y" a2="{}"', ("plain", "blank", "comma")),
    Specimen("sql", "IDENTIFIED WITH password '{}'", ("plain", "blank", "comma")),
)  # fmt: skip

_DOMAIN = "<domain type='kvm'><name>web</name><uuid>6d1a6e8a-0000-4000-8000-000000000001</uuid><memory>1</memory><vcpu>1</vcpu>{}</domain>"


def _domain(kind: str, inner: str, encode: str = "xml", shapes: tuple[str, ...] = ALL) -> Specimen:
    return Specimen(kind, _DOMAIN.replace("{}", inner), shapes, encode)


_QEMU = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"
DOMAIN = (
    _domain("graphics", "<devices><graphics type='vnc' passwd='{}' port='5900'/></devices>", "attribute", tuple(set(ALL) - {"quote"})),
    _domain("graphics", '<devices><graphics type="spice" passwd="{}"/></devices>', "attribute", tuple(set(ALL) - {"double"})),
    _domain("auth", "<devices><disk><auth username='{}'><secret type='ceph' uuid='u'/></auth></disk></devices>", "attribute", ("plain", "comma")),
    _domain("secret text", "<devices><disk><auth><secret>{}</secret></auth></disk></devices>"),
    _domain("cookie", "<devices><disk><source protocol='https' name='x'><cookies><cookie name='a'>{}</cookie></cookies></source></disk></devices>"),
    _domain("query", "<devices><disk><source protocol='https' name='x' query='token={}'/></disk></devices>", "attribute", ("plain", "ampersand")),
    _domain("source url", "<devices><disk><source file='https://u:{}@h/x'/></disk></devices>", "attribute", ("plain", "slash", "at", "ampersand")),
    _domain("backing", "<devices><disk><backingStore><source file='json:{&quot;password&quot;:&quot;{}&quot;}'/></backingStore></disk></devices>", "xml", ("plain", "blank", "comma")),
    _domain("qemu arg", f"<qemu:commandline {_QEMU}><qemu:arg value='-fw_cfg'/><qemu:arg value='name=x,string={{}}'/></qemu:commandline>", "attribute", ("plain", "comma", "ampersand", "blank")),
    _domain("qemu env", f"<qemu:commandline {_QEMU}><qemu:env name='TOKEN' value='{{}}'/></qemu:commandline>", "attribute", ("plain", "comma", "ampersand", "blank")),
    _domain("oem strings", "<sysinfo type='smbios'><oemStrings><entry>io.systemd.credential:x={}</entry></oemStrings></sysinfo>"),
    _domain("sysinfo", "<sysinfo type='smbios'><system><entry name='serial'>ds=nocloud;pw={}</entry></system></sysinfo>"),
    _domain("fwcfg", "<sysinfo type='fwcfg'><entry name='opt/com.coreos/config'>{}</entry></sysinfo>"),
    _domain("launch security", "<launchSecurity type='sev'><dhCert>{}</dhCert><session>{}</session></launchSecurity>"),
    _domain("kernel arguments", "<os><type>hvm</type><cmdline>rootpw={}</cmdline></os>"),
    _domain("metadata", "<metadata><x:note xmlns:x='urn:x' key='{}'>{}</x:note></metadata>", "attribute", ("plain", "comma", "blank")),
    _domain("description", "<description>the login is {}</description>"),
    _domain("title", "<title>{}</title>"),
    _domain("comment", "<!-- old: {} -->", "", ("plain", "comma", "blank")),
    _domain("cdata", "<description><![CDATA[{}]]></description>", "", ("plain", "comma", "blank", "ampersand")),
    _domain("serial", "<devices><disk><serial>{}</serial></disk></devices>", "xml", ("plain", "comma")),
    _domain("filter parameter", "<devices><interface><filterref filter='f'><parameter name='KEY' value='{}'/></filterref></interface></devices>", "attribute", ("plain", "comma")),
    _domain("tpm", "<devices><tpm model='x'><backend type='emulator'><encryption secret='{}'/></backend></tpm></devices>", "attribute", ("plain",)),
    _domain("unknown element", "<devices><novelty pass='{}'>{}</novelty></devices>", "attribute", ("plain", "comma", "blank")),
    _domain("character source", "<devices><serial type='tcp'><source mode='connect' host='{}' service='1'/></serial></devices>", "attribute", ("plain", "comma")),
    _domain("nested deep", "<a>" * 200 + "{}" + "</a>" * 200),
    Specimen("cut", _DOMAIN.replace("{}", "<devices><graphics passwd='{}'")[: -len("</domain>")], ("plain", "blank", "comma")),
    Specimen("dtd", "<!DOCTYPE d [<!ENTITY e '{}'>]><domain><name>a</name>{}</domain>", ("plain", "blank")),
)  # fmt: skip
NETWORK = (
    Specimen("network", "<network><name>n</name><metadata><k>{}</k></metadata><dns><txt name='x' value='{}'/></dns></network>", ("plain", "blank", "comma")),
    Specimen("dnsmasq", "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>n</name><dnsmasq:options><dnsmasq:option value='auth={}'/></dnsmasq:options></network>", ("plain", "blank", "comma")),
)  # fmt: skip
POOL = (
    Specimen("pool", "<pool type='iscsi'><name>p</name><source><auth type='chap' username='u' password='{}'><secret usage='x'/></auth></source></pool>", ("plain", "blank", "comma")),
    Specimen("pool", "<pool type='rbd'><name>p</name><source><auth type='ceph'><secret>{}</secret></auth></source><note>{}</note></pool>", ("plain", "blank", "comma")),
    Specimen("rbd options", "<pool xmlns:rbd='http://libvirt.org/schemas/storagepool/rbd/1.0'><name>p</name><rbd:config_opts><rbd:option name='key' value='{}'/></rbd:config_opts></pool>", ("plain", "blank", "comma")),
)  # fmt: skip
JSON = (
    Specimen("json", '[{"ifname": "eth0", "data": "{}"}]', ALL, "json"),
    Specimen("json nested", '{"a": [{"b": {"password": "{}"}}]}', ALL, "json"),
    Specimen("json list", '[{"x": ["{}", "y"]}]', ALL, "json"),
    Specimen("json alias", '[{"ifname": "eth0", "ifalias": "{}"}]', ALL, "json"),
    Specimen("json, cut", '[{"ifname": "eth0", "data": "{}', ("plain", "blank", "comma")),
    Specimen("json number", '[{"password": {}}]', ("number",)),
)
ARGV = (
    Specimen("argv secret", "/usr/bin/qemu-system-x86_64\n-uuid\nu\n-object\nsecret,id=s0,data={},format=raw", UNQUOTED, "qemu"),
    Specimen("argv json", '/usr/bin/qemu-kvm\n-object\n{"data":"{}","qom-type":"secret","id":"s"}', ALL, "json"),
    Specimen("argv fw_cfg", "/usr/bin/qemu-kvm\n-fw_cfg\nname=opt/x,string={}", LINE, "qemu"),
    Specimen("argv append", "/usr/bin/qemu-kvm\n-append\nquiet x={}\n-m\n1", LINE),
    Specimen("argv smbios", "/usr/bin/qemu-kvm\n-smbios\ntype=11,value=io.systemd.credential:x={}", LINE, "qemu"),
    Specimen("argv drive", "/usr/bin/qemu-kvm\n-drive\nfile=https://u:{}@h/x,if=virtio", URL, "qemu"),
    Specimen("argv cookie", "/usr/bin/qemu-kvm\n-drive\nfile.driver=https,file.cookie={}", LINE, "qemu"),
    Specimen("argv spice", "/usr/bin/qemu-kvm\n-spice\nport=1,password={}", LINE, "qemu"),
    Specimen("argv iscsi", "/usr/bin/qemu-kvm\n-iscsi\nuser=u,password={}", LINE, "qemu"),
    Specimen("argv lines", "/usr/bin/qemu-kvm\n-fw_cfg\nname=x,string=a\n{}\n-m\n1", LINE),
    Specimen("argv blockdev", '/usr/bin/qemu-kvm\n-blockdev\n{"driver":"rbd","key":"{}","node-name":"n"}', ALL, "json"),
    Specimen("argv unknown", "/usr/bin/qemu-kvm\n-novelty\n{}", LINE),
)
DAEMON = (
    Specimen("daemon", "/usr/sbin/chronyd\nserver x key {}", LINE),
    Specimen("daemon", "/usr/sbin/ptp4l\n--password={}", LINE),
    Specimen("daemon", "/usr/sbin/ptp4l\n--sa_key\n{}", LINE),
    Specimen("daemon", "/usr/sbin/ntpd\n{}", LINE),
)
CMDLINE = tuple(
    Specimen("kernel", f"BOOT_IMAGE=/vmlinuz root=UUID=1-2 ro quiet {text} hugepages=4\n", shapes)
    for text, shapes in (
        ("rootpw={}", WORD), ('rootpw="{}"', ("plain", "blank", "comma")), ("netroot=iscsi:u:{}@10.0.0.1::3260::iqn", URL), ("rd.iscsi.password={}", WORD),
        ("rd.iscsi.in.password={}", WORD), ("cifsroot=//s/x cifsopts=user=u,pass={}", WORD), ("aws_secret_access_key={}", WORD), ("db_pass={}", WORD),
        ("wpa_psk={}", WORD), ("systemd.set_credential=a:{}", WORD), ("ds=nocloud;s=http://u:{}@h/", URL), ("rd.luks.key={}", WORD), ("ks=https://u:{}@h/ks", URL),
        ("inst.rootpw={}", WORD), ("{}", tuple(set(WORD) - {"equals"})), ("root=iscsi:u:{}@h::3260:1:iqn", URL), ("root=live:https://u:{}@h/x", URL), ("-- {}", tuple(set(WORD) - {"equals"})),
        ("rootpw={}", ("blank",)), ("ip=dhcp apikey={}", WORD), ("proxy=http://u:{}@p/", URL),
    )
)  # fmt: skip
MOUNTS = tuple(
    Specimen("mount", f"{text}\n", shapes)
    for text, shapes in (
        ("//s/x /mnt cifs rw,username=u,password={},vers=3.0 0 0", ("plain", "comma", "slash", "colon", "equals")),
        ("10.0.0.1:/ /mnt ceph rw,name=admin,secret={},acl 0 0", ("plain", "comma", "slash", "equals")),
        ("https://u:{}@dav/x /mnt fuse rw,relatime 0 0", URL), ("x /mnt fuse.s3fs rw,passwd_file={} 0 0", ("plain",)),
        ("x /mnt fuse.sshfs rw,{} 0 0", ("plain", "comma")),
    )
)  # fmt: skip


def hex_header(name: str, place: int = 400) -> str:
    """Return the header of a qcow2 image with the backing file *name*, and its name in an extension too, as od prints it."""
    data = bytearray(1024)
    data[0:8] = b"QFI\xfb\x00\x00\x00\x03"
    if name:
        data[8:16] = place.to_bytes(8, "big")
    data[16:20] = len(name.encode()).to_bytes(4, "big")
    data[100:104] = (112).to_bytes(4, "big")
    data[place : place + len(name.encode())] = name.encode()
    data[112:120] = b"\xe2\x79\x2a\xca" + len(name.encode()[:200]).to_bytes(4, "big")
    data[120 : 120 + len(name.encode()[:200])] = name.encode()[:200]
    return bytes(data).hex() + "\n"


def hex_snapshots(name: str) -> str:
    """Return a table of one snapshot of this name, and what else the guest has behind it."""
    entry = bytearray(40)
    entry[0:8], entry[12:14], entry[14:16] = (1).to_bytes(8, "big"), (1).to_bytes(2, "big"), len(name).to_bytes(2, "big")
    table = bytes(entry) + b"1" + name.encode()
    return (table + bytes(-len(table) % 8) + bytes(64) + name.encode() * 3).hex()


HEADERS = (
    "https://u:{}@h/base.qcow2", "nbd://u:{}@h/x", "rbd:vms/a:id=admin:key={}{}:mon=x", "ssh://root:{}@h/x", "https://h/x?token={}",
    'json:{"driver":"https","url":"https://u:{}@h"}', 'json:{"file":{"cookie":"{}"},"driver":"qcow2"}', "iscsi://u%{}@h/iqn/1",
)  # fmt: skip


def settings_specimens(
    names: str = "rootpw password vnc_password api_token ldapdb_pw sa_key key NOVELTY secret_key",
) -> Iterator[Specimen]:
    """Yield lines of configuration files of all customs."""
    for name in names.split():
        yield Specimen(f"setting {name}", f"{name} = {{}}", UNQUOTED)
        yield Specimen(f"setting {name}", f'{name}="{{}}"', tuple(set(LINE) - {"double", "backslash"}))
        yield Specimen(f"setting {name}", f"{name} {{}}", UNQUOTED)
        yield Specimen(f"setting {name}", f"{name}: {{}}", UNQUOTED)
    yield Specimen("comment", "# old login {}", LINE)
    yield Specimen("comment", "; {}", LINE)
    yield Specimen("drop-in", "Environment=DB_PASSWORD={}", UNQUOTED)
    yield Specimen("drop-in", 'Environment="A=b" "TOKEN={}"', ("plain", "blank", "comma"))
    yield Specimen("url", "URL=https://u:{}@h/", URL)
    yield Specimen("private key", "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----")
    yield Specimen("open quote", 'X="{}', LINE)
    yield Specimen("bare", "{}", tuple(set(LINE) - {"hash", "equals", "colon", "blank"}))  # those would be names and values


#: In tables nothing but a sign, a URL or the form itself announces a secret.
WORDS = tuple(
    item
    for item in LOG
    if item.kind
    in {
        "assignment", "quoted", "url", "url encoded colon", "two urls", "url token", "rtsp", "amqp", "jwt", "bearer", "aws", "aws id", "github", "gitlab", "slack",
        "crypt", "yescrypt", "htpasswd", "ssha", "chap", "ceph", "rbd", "psk", "wpa", "private key", "private key, cut", "private key, pgp",
        "private key in a line", "base64 line", "luks", "hex key", "vault", "proxy", "openstack", "pin", "corosync", "ipmi", "suffix", "kickstart", "option",
        "option equals", "word", "snmp", "auth token", "cookie", "query", "json in a log", "environment", "wireguard", "set_credential", "cifs", "connection string",
    }
)  # fmt: skip
