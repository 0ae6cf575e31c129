mkdir -p /run/site
cat > /run/site/ca.crt <<'END_OF_SITE_FILE'
-----BEGIN CERTIFICATE-----
MII1
-----END CERTIFICATE-----
-----BEGIN CERTIFICATE-----
MII2
-----END CERTIFICATE-----
END_OF_SITE_FILE
cat > /run/site/sources.list <<'END_OF_SITE_FILE'
deb http://apt.corp.invalid/debian bookworm main
deb http://apt.corp.invalid/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
END_OF_SITE_FILE
cat > /run/site/apt.conf <<'END_OF_SITE_FILE'
Acquire::Retries "3";
Acquire::https::CAInfo "/run/site/ca.crt";
Dir::Etc::sourcelist "/run/site/sources.list";
Dir::Etc::sourceparts "-";
END_OF_SITE_FILE
cat > /run/site/netrc <<'END_OF_SITE_FILE'
machine pkgs.corp.invalid login u password p4ss
END_OF_SITE_FILE
export APT_CONFIG=/run/site/apt.conf
export CURL_CA_BUNDLE=/run/site/ca.crt
export NETRC=/run/site/netrc
export PIP_CERT=/run/site/ca.crt
export PIP_EXTRA_INDEX_URL=https://extra.corp.invalid/simple
export PIP_FIND_LINKS=https://links.corp.invalid/whl
export PIP_INDEX_URL=https://u:p@pkgs.corp.invalid/simple
export PIP_TRUSTED_HOST=pkgs.corp.invalid
export REQUESTS_CA_BUNDLE=/run/site/ca.crt
export SSL_CERT_FILE=/run/site/ca.crt
export UV_DEFAULT_INDEX=https://u:p@pkgs.corp.invalid/simple
export UV_FIND_LINKS=https://links.corp.invalid/whl
export UV_INDEX='https://extra.corp.invalid/simple https://download.pytorch.org/whl/cpu'
export UV_INSECURE_HOST=pkgs.corp.invalid
export http_proxy=http://proxy.corp.invalid:3128
