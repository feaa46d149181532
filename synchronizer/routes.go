package synchronizer

import (
	"net/http"

	"disksync/api"
)

// permission is what a route asks of its caller. The zero value is none: a route that does not say is open to nobody.
type permission int

const (
	_        permission = iota
	anybody             // no token
	member              // a user's token; the handler sees to it that the user gets only what is assigned
	operator            // an administrator's token, or the local socket
)

// route is one entry of the table that all requests go through: there is no handler without a permission.
type route struct {
	pattern string
	need    permission
	audit   string // what the audit log calls it; empty: reading, not logged
	serve   func(s *Server, c *call) error
}

var routes = []route{
	{"GET /v1/server", anybody, "", (*Server).getServer},
	{"POST /v1/login", anybody, "login", (*Server).postLogin},
	{"DELETE /v1/login", member, "logout", (*Server).deleteLogin},

	{"GET /v1/offers", member, "", (*Server).getOffers},
	{"GET /v1/images/{image}/versions/{version}/manifest", member, "", (*Server).getManifest},
	{"GET /v1/images/{image}/versions/{version}/layers", member, "", (*Server).getEdges},
	{"GET /v1/images/{image}/keys", member, "", (*Server).getMediaKeys},
	{"GET /v1/layers/{layer}", member, "", (*Server).getLayer},
	{"GET /v1/states/{state}", operator, "", (*Server).getState},

	{"GET /v1/images", operator, "", (*Server).getImages},
	{"GET /v1/images/{image}", operator, "", (*Server).getImage},
	{"DELETE /v1/images/{image}", operator, "delete image", (*Server).deleteImage},
	{"POST /v1/images/{image}/versions", operator, "publish", (*Server).postVersion},
	{"GET /v1/images/{image}/versions/{version}/files", operator, "", (*Server).getMediaFiles},
	{"PUT /v1/images/{image}/versions/{version}/media", operator, "write medium", (*Server).putMedium},
	{"POST /v1/images/{image}/keys", operator, "make media key", (*Server).postMediaKey},
	{"PUT /v1/images/{image}/layers/{layer}", operator, "add layer", (*Server).putEdge},
	{"DELETE /v1/images/{image}/layers/{layer}", operator, "remove layer", (*Server).deleteEdge},
	{"GET /v1/images/{image}/squashes", operator, "", (*Server).getSquashes},
	{"POST /v1/images/{image}/squashes", operator, "squash", (*Server).postSquash},
	{"GET /v1/images/{image}/policy", operator, "", (*Server).getPolicy},
	{"PUT /v1/images/{image}/policy", operator, "set policy", (*Server).putPolicy},

	{"GET /v1/backups", member, "", (*Server).getBackups},
	{"POST /v1/backups", member, "open backups", (*Server).postBackup},
	{"GET /v1/backups/{line}", member, "", (*Server).getBackup},
	{"POST /v1/backups/{line}/points", member, "back up", (*Server).postPoint},
	{"GET /v1/backups/{line}/points/{point}/manifest", member, "", (*Server).getPointManifest},
	{"GET /v1/backups/{line}/points/{point}/layers", member, "", (*Server).getPointLayers},
	{"DELETE /v1/backups/{line}", operator, "delete backups", (*Server).deleteBackup},
	{"DELETE /v1/backups/{line}/points/{point}", operator, "delete backup", (*Server).deletePoint},
	{"POST /v1/backups/{line}/prune", operator, "prune backups", (*Server).postPrune},
	{"POST /v1/backups/{line}/verify", operator, "verify backups", (*Server).postVerify},

	{"POST /v1/uploads/{layer}", member, "", (*Server).postUpload},
	{"GET /v1/uploads/{layer}", member, "", (*Server).getUpload},
	{"PATCH /v1/uploads/{layer}", member, "", (*Server).patchUpload},
	{"DELETE /v1/uploads/{layer}", member, "", (*Server).deleteUpload},

	{"GET /v1/users", operator, "", (*Server).getUsers},
	{"POST /v1/users", operator, "add user", (*Server).postUser},
	{"DELETE /v1/users/{user}", operator, "delete user", (*Server).deleteUser},
	{"PUT /v1/users/{user}/password", operator, "set password", (*Server).putPassword},

	{"GET /v1/groups", operator, "", (*Server).getGroups},
	{"PUT /v1/groups/{group}", operator, "add group", (*Server).putGroup},
	{"DELETE /v1/groups/{group}", operator, "delete group", (*Server).deleteGroup},
	{"PUT /v1/groups/{group}/members/{user}", operator, "add member", (*Server).putMember},
	{"DELETE /v1/groups/{group}/members/{user}", operator, "remove member", (*Server).deleteMember},

	{"GET /v1/assignments", operator, "", (*Server).getAssignments},
	{"PUT /v1/assignments", operator, "assign", (*Server).putAssignment},
	{"DELETE /v1/assignments", operator, "unassign", (*Server).deleteAssignment},

	{"GET /v1/devices", operator, "", (*Server).getDevices},
	{"DELETE /v1/devices/{device}", operator, "delete device", (*Server).deleteDevice},

	{"GET /v1/audit", operator, "", (*Server).getAudit},
}

// handler returns the table as an http.Handler whose callers are told apart by who.
func (s *Server) handler(who func(*http.Request) (caller, error)) http.Handler {
	mux := http.NewServeMux()
	for _, rt := range routes {
		mux.HandleFunc(rt.pattern, func(w http.ResponseWriter, r *http.Request) {
			c := s.newCall(w, r)
			err := s.permit(c, rt.need, who)
			if err == nil {
				err = rt.serve(s, c)
			}
			s.finish(c, rt, err)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.finish(s.newCall(w, r), route{}, notFound("there is nothing at %s %s", r.Method, r.URL.Path))
	})
	return s.gated(mux)
}

// gated lets requests through until Close has begun.
func (s *Server) gated(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.gate.TryRLock() {
			s.newCall(w, r).refuse(&api.Error{Code: api.CodeBusy, Message: "the Synchronizer is going down"})
			return
		}
		defer s.gate.RUnlock()
		h.ServeHTTP(w, r)
	})
}

// permit finds out who calls and whether they may.
func (s *Server) permit(c *call, need permission, who func(*http.Request) (caller, error)) error {
	if need == anybody {
		return nil
	}
	var err error
	if c.who, err = who(c.Request); err != nil {
		return err
	}
	switch {
	case need == member, need == operator && c.who.admin:
		return nil
	}
	return &api.Error{Code: api.CodeForbidden, Message: "only administrators may do this"}
}
