package hypervisor

import "encoding/xml"

// The elements of a domain, as far as it has them.

type domain struct {
	XMLName     xml.Name  `xml:"domain"`
	Type        string    `xml:"type,attr"`
	Name        string    `xml:"name"`
	UUID        string    `xml:"uuid"`
	Title       string    `xml:"title"`
	Description string    `xml:"description"`
	Memory      quantity  `xml:"memory"`
	VCPU        int       `xml:"vcpu"`
	OS          osXML     `xml:"os"`
	Features    *features `xml:"features"`
	CPU         *cpu      `xml:"cpu"`
	Clock       clock     `xml:"clock"`
	OnPowerOff  string    `xml:"on_poweroff"`
	OnReboot    string    `xml:"on_reboot"`
	OnCrash     string    `xml:"on_crash"`
	Devices     devices   `xml:"devices"`
}

type quantity struct {
	Unit  string `xml:"unit,attr"`
	Value int64  `xml:",chardata"`
}

type osXML struct {
	Type   osType  `xml:"type"`
	Loader *loader `xml:"loader"`
	NVRAM  string  `xml:"nvram,omitempty"`
}

type osType struct {
	Arch    string `xml:"arch,attr"`
	Machine string `xml:"machine,attr"`
	Kind    string `xml:",chardata"`
}

type loader struct {
	ReadOnly string `xml:"readonly,attr"`
	Type     string `xml:"type,attr"`
	Path     string `xml:",chardata"`
}

type empty struct{}

type state struct {
	State string `xml:"state,attr"`
}

type features struct {
	ACPI   *empty `xml:"acpi"`
	APIC   *empty `xml:"apic"`
	VMPort *state `xml:"vmport"`
}

type cpu struct {
	Mode string `xml:"mode,attr"`
}

type clock struct {
	Offset string `xml:"offset,attr"`
}

type devices struct {
	Disks        []diskXML     `xml:"disk"`
	Controllers  []controller  `xml:"controller"`
	Interfaces   []netXML      `xml:"interface"`
	Serials      []serial      `xml:"serial"`
	Consoles     []serial      `xml:"console"`
	Channels     []channel     `xml:"channel"`
	Graphics     []graphics    `xml:"graphics"`
	Videos       []video       `xml:"video"`
	Redirections []redirection `xml:"redirdev"`
	Filter       *redirFilter  `xml:"redirfilter"`
	RNG          *rng          `xml:"rng"`
	Balloon      model         `xml:"memballoon"`
}

type diskXML struct {
	Type   string     `xml:"type,attr"`
	Device string     `xml:"device,attr"`
	Driver diskDriver `xml:"driver"`
	Source diskSource `xml:"source"`
	Target diskTarget `xml:"target"`
	Serial string     `xml:"serial"`
	Boot   boot       `xml:"boot"`
	Geo    *geometry  `xml:"geometry"`
}

type diskDriver struct {
	Name         string `xml:"name,attr"`
	Type         string `xml:"type,attr"`
	Cache        string `xml:"cache,attr"`
	ErrorPolicy  string `xml:"error_policy,attr"`
	RErrorPolicy string `xml:"rerror_policy,attr"`
	Discard      string `xml:"discard,attr"`
	DetectZeroes string `xml:"detect_zeroes,attr"`
}

type diskSource struct {
	Protocol string   `xml:"protocol,attr"`
	Name     string   `xml:"name,attr"`
	Host     diskHost `xml:"host"`
}

type diskHost struct {
	Transport string `xml:"transport,attr"`
	Socket    string `xml:"socket,attr"`
}

type diskTarget struct {
	Dev string `xml:"dev,attr"`
	Bus string `xml:"bus,attr"`
}

type boot struct {
	Order int `xml:"order,attr"`
}

type controller struct {
	Type  string `xml:"type,attr"`
	Model string `xml:"model,attr"`
}

type netXML struct {
	Type   string     `xml:"type,attr"`
	MAC    *mac       `xml:"mac"`
	Source *netSource `xml:"source"`
	Model  *model     `xml:"model"`
}

type mac struct {
	Address string `xml:"address,attr"`
}

type netSource struct {
	Bridge string `xml:"bridge,attr"`
}

// model is an element whose type attribute, or model attribute, is all that it has.
type model struct {
	Model string `xml:"model,attr,omitempty"`
	Type  string `xml:"type,attr,omitempty"`
}

type serial struct {
	Type   string `xml:"type,attr"`
	Target port   `xml:"target"`
}

type port struct {
	Type string `xml:"type,attr,omitempty"`
	Port int    `xml:"port,attr"`
}

type channel struct {
	Type   string        `xml:"type,attr"`
	Target channelTarget `xml:"target"`
}

type channelTarget struct {
	Type string `xml:"type,attr"`
	Name string `xml:"name,attr"`
}

type graphics struct {
	Type   string `xml:"type,attr"`
	Listen listen `xml:"listen"`
}

type listen struct {
	Type   string `xml:"type,attr"`
	Socket string `xml:"socket,attr"`
}

type video struct {
	Model videoModel `xml:"model"`
}

type videoModel struct {
	Type string `xml:"type,attr"`
}

type redirection struct {
	Bus    string      `xml:"bus,attr"`
	Type   string      `xml:"type,attr"`
	Source redirSource `xml:"source"`
}

type redirSource struct {
	Mode string `xml:"mode,attr"`
	Path string `xml:"path,attr"`
}

type redirFilter struct {
	Rules []usbRule `xml:"usbdev"`
}

type usbRule struct {
	Class string `xml:"class,attr,omitempty"`
	Allow string `xml:"allow,attr"`
}

type rng struct {
	Model   string  `xml:"model,attr"`
	Backend backend `xml:"backend"`
}

type backend struct {
	Model string `xml:"model,attr"`
	Path  string `xml:",chardata"`
}
