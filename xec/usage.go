package xec

// usage is the text printed by --help. The examples and the options are in the
// historic order; the last example is the commonest use of all.
const usage = `Usage: xec [options] [get/set/getall] <method/property> arg1 arg2 ... argN

Examples:
  * show everything an object offers
      xec -s <service> -o <object>
  * show one interface of an object
      xec -s <service> -o <object> -i <interface>
  * read a property
      xec -s <service> -o <object> -i <interface> get <property>
  * read all properties
      xec -s <service> -o <object> -i <interface> getall
  * write a property
      xec -s <service> -o <object> -i <interface> set <property> <value>
  * call a method
      xec -s <service> -o <object> -i <interface> <method> <argument> ...
  * stop the use of USB sticks as a source of disk images
      xec -s com.citrix.xenclient.disksyncmgr --set enable-usb-cache false

Options come first; each is a word of its own, and so is its argument:
  -h, --help                     print this text
  -q, --query                    do not log this command to syslog
      --session                  use the session bus, not the system bus
      --list-interfaces          print the names of the object's interfaces
      --list-methods             print the names of the object's methods
      --list-properties          print the names of the object's properties
  -s, --service SERVICE          the service; default com.citrix.xenclient.xenmgr;
                                 a name without a dot means com.citrix.xenclient.NAME
  -o, --object OBJECT            the object; default /
  -i, --interface INTERFACE      the interface; default: the first that declares
                                 the property or method
  -g, --get PROPERTY             read a property
  -x, --set PROPERTY VALUE       write a property
  -t, --target-domid DOMID       use the bus of another Xen domain (not available)

Values: true, false, 12, -7, 0.5, any text; inside brackets text is quoted:
  array ["a", "b"]   dictionary {"key" : "value"}   structure ["a", 1]

Exit code: 0 done; 1 refused or failed. What a service answers, errors included,
is printed on standard output; what xec itself finds wrong, on standard error.

`
