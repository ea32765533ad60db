"""What of Gradio's page is mended as it is served: its longest walks, made short.

With hundreds of components that page spends seconds in looking for one of them by walking over
all, in building itself twice, and in telling each of them after every event that nothing has
changed. A mend is named by the text that it replaces; where another version of Gradio says that
otherwise, its own text is served.
"""

# Each: what it is, Gradio's text, ours. Both are parts of minified modules.
MENDS: tuple[tuple[str, str, str], ...] = (
    (
        "a component is found by its number",
        "async update_state(e,t,n=!0){let r=Z(this.root,e),i=!1;"
        "if(n&&!r?.component){await C();let n=Z(this.root,e);",
        "found(e,up){let r=this.root;if(this.walked!==r){this.walked=r;this.byId=new Map;"
        "this.above=new Map;let w=(n,p)=>{this.byId.set(n.id,n);this.above.set(n.id,p);"
        "if(n.children)for(let c of n.children)w(c,n)};w(r,null)}"
        "return(up?this.above:this.byId).get(e)??null}"
        "async update_state(e,t,n=!0){let r=this.found(e),i=!1;"
        "if(n&&!r?.component){await C();let n=this.found(e);",
    ),
    (
        "and again after it was made",
        "await C(),r=Z(this.root,e),i=!0}",
        "await C(),r=this.found(e),i=!0}",
    ),
    ("a tab's bar, too", "let n=Ie(this.root,e);", "let n=this.found(e,!0);"),
    (
        "a state is read",
        "let t=this.#s.get(e),n=Z(this.root,e);return!t&&!n?null:",
        "let t=this.#s.get(e),n=this.found(e);return!t&&!n?null:",
    ),
    (
        "a tab that opens is found so",
        "async render_previously_invisible_children(e){let t=Z(this.root,e);",
        "async render_previously_invisible_children(e){let t=this.found(e);",
    ),
    (
        "what was made anew is found anew",
        "a.children=i.children,this.#f(i)}",
        "a.children=i.children,this.walked=null,this.#f(i)}",
    ),
    (
        "events are sorted by component once",
        "find_attached_events(e,t){let n=t.filter(t=>t.targets.find(([t])=>t===e.id))"
        ".map(t=>{let n=t.targets.find(([t])=>t===e.id);return n?n[1]:null}).filter(Boolean);"
        "return e.props.shared_props.attached_events=n,e}",
        "find_attached_events(e,t){if(this.sorted!==t){this.sorted=t;this.byTarget=new Map;"
        "for(let d of t){let s=new Set;for(let[i,n]of d.targets){if(s.has(i))continue;s.add(i);"
        "if(n){let a=this.byTarget.get(i);a?a.push(n):this.byTarget.set(i,[n])}}}}"
        "return e.props.shared_props.attached_events=this.byTarget.get(e.id)||[],e}",
    ),
    (
        "a progress does not ask the children for their values",
        "r&&!(`value`in t)&&(await this.#m(e,r),await this.#h(r));",
        "r&&!(`value`in t)&&!(`loading_status`in t)&&(await this.#m(e,r),await this.#h(r));",
    ),
    (
        "the page is built once",
        "le(()=>{v(),oe(()=>{O.reload(",
        "let built=!1;le(()=>{v(),oe(()=>{if(!built){built=!0;return}O.reload(",
    ),
    (
        "an event without arguments of its own reads no state for them",
        "async set_event_args(e,t){let n={},r=await",
        "async set_event_args(e,t){if(!Object.keys(t).length)return()=>{};let n={},r=await",
    ),
    (
        "only a progress that changed is told",
        "async update_loading_stati_state(){await Promise.all(Object.entries("
        "this.loading_stati.current).map(([e,t])=>this.update_state_cb(Number(e),"
        "{loading_status:t},!1)))}",
        "told=new Map;async update_loading_stati_state(){let same=(a,b)=>{if(!a)return!1;"
        "let k=Object.keys(b);return k.length===Object.keys(a).length&&k.every(n=>a[n]===b[n])};"
        "await Promise.all(Object.entries(this.loading_stati.current).map(([e,t])=>{"
        "if(same(this.told.get(e),t))return;this.told.set(e,t);"
        "return this.update_state_cb(Number(e),{loading_status:t},!1)}))}",
    ),
    (
        "and what was told otherwise is told again",
        "r.inputs.forEach(e=>{this.update_state_cb(e,{loading_status:{validation_error:null}},!1)})",
        "r.inputs.forEach(e=>{this.told.delete(String(e)),"
        "this.update_state_cb(e,{loading_status:{validation_error:null}},!1)})",
    ),
    (
        "the configuration does not change",
        "R(M,S(G).get_url_config(),!0),oe(S(M))",
        "R(M,S(G).get_url_config()),oe(S(M))",
    ),
    (
        "its own styles are put in once, not twice",
        "async function ue(e){e&&(L||",
        "async function ue(e){!1&&(L||",
    ),
)


def mended(text: str) -> str:
    """The module with what of it can be mended."""
    for _, theirs, ours in MENDS:
        if text.count(theirs) == 1:
            text = text.replace(theirs, ours)
    return text
