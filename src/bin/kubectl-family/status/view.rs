//! The objects that are shown, kept up to date by watches.

use std::collections::BTreeMap;

use kube::{ResourceExt as _, runtime::watcher};

use groundswell::api::{Cascade, ImageFamily, ManagedImage};

use crate::input::live_states::set_live_states;

/// A family by namespace and name.
pub type FamilyKey = (String, String);

/// The objects to show: one family with its images, or several families.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    pub families: BTreeMap<FamilyKey, ImageFamily>,
    pub images: BTreeMap<String, ManagedImage>,
    /// The cascades of the one family.
    pub cascades: BTreeMap<String, Cascade>,
}

/// A watch event of an object that is shown.
#[derive(Debug)]
pub enum StatusEvent {
    Family(Box<watcher::Event<ImageFamily>>),
    Image(Box<watcher::Event<ManagedImage>>),
    Cascade(Box<watcher::Event<Cascade>>),
}

/// A view that watches keep up to date. A list that a watch begins again replaces the objects when
/// it is complete: half a list is never shown.
#[derive(Debug, Default)]
pub struct WatchedView {
    /// What was complete last.
    view: View,
    families: WatchedList<FamilyKey, ImageFamily>,
    images: WatchedList<String, ManagedImage>,
    cascades: WatchedList<String, Cascade>,
}

/// A list that is being read.
#[derive(Debug)]
struct WatchedList<K, V> {
    incoming: BTreeMap<K, V>,
    is_complete: bool,
}

impl<K, V> Default for WatchedList<K, V> {
    fn default() -> Self {
        Self { incoming: BTreeMap::new(), is_complete: false }
    }
}

impl<K: Ord, V> WatchedList<K, V> {
    /// Carries out an event on the objects that are shown.
    fn apply(&mut self, event: watcher::Event<V>, shown: &mut BTreeMap<K, V>, key: fn(&V) -> K) {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        match event {
            Apply(object) => _ = shown.insert(key(&object), object),
            Delete(object) => _ = shown.remove(&key(&object)),
            Init => self.incoming.clear(),
            InitApply(object) => _ = self.incoming.insert(key(&object), object),
            InitDone => {
                *shown = std::mem::take(&mut self.incoming);
                self.is_complete = true;
            }
        }
    }
}

impl WatchedView {
    /// Begins with objects that were read. They are shown until the first lists are complete.
    pub fn new(view: View) -> Self {
        Self { view, ..Self::default() }
    }

    /// Carries out an event.
    pub fn apply(&mut self, event: StatusEvent) {
        match event {
            StatusEvent::Family(event) => {
                self.families.apply(*event, &mut self.view.families, family_key);
            }
            StatusEvent::Image(event) => {
                self.images.apply(*event, &mut self.view.images, ManagedImage::name_any);
            }
            StatusEvent::Cascade(event) => {
                self.cascades.apply(*event, &mut self.view.cascades, Cascade::name_any);
            }
        }
    }

    /// Whether the first lists of families and, for one family, of images and cascades are
    /// complete.
    pub fn is_complete(&self, has_images: HasImages) -> bool {
        let of_images = self.images.is_complete && self.cascades.is_complete;
        self.families.is_complete && (has_images == HasImages::No || of_images)
    }

    /// Returns the objects with the states of this moment.
    pub fn live(&self) -> View {
        self.view.clone().with_live_states()
    }
}

/// Whether images are shown, and not only families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HasImages {
    No,
    Yes,
}

impl View {
    pub fn insert_family(&mut self, family: ImageFamily) {
        self.families.insert(family_key(&family), family);
    }

    pub fn insert_image(&mut self, image: ManagedImage) {
        self.images.insert(image.name_any(), image);
    }

    pub fn insert_cascade(&mut self, cascade: Cascade) {
        self.cascades.insert(cascade.name_any(), cascade);
    }

    /// Returns the objects with the states of images that only the records of cascades have yet.
    pub fn with_live_states(mut self) -> Self {
        set_live_states(self.images.values_mut(), self.cascades.values());
        self
    }
}

fn family_key(family: &ImageFamily) -> FamilyKey {
    (family.namespace().unwrap_or_default(), family.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> ManagedImage {
        let mut image = ManagedImage::default();
        image.metadata.name = Some(name.into());
        image
    }

    #[test]
    fn a_list_that_is_read_again_is_shown_when_it_is_complete() {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let mut watched = WatchedView::default();
        let mut shown = |event| {
            watched.apply(StatusEvent::Image(Box::new(event)));
            let names: Vec<&str> = watched.view.images.keys().map(String::as_str).collect();
            names.join(" ")
        };
        assert_eq!(shown(Init), "");
        assert_eq!(shown(InitApply(image("a"))), "");
        assert_eq!(shown(InitApply(image("b"))), "");
        assert_eq!(shown(InitDone), "a b");
        assert_eq!(shown(Apply(image("c"))), "a b c");
        assert_eq!(shown(Delete(image("a"))), "b c");
        // The watch was interrupted.
        assert_eq!(shown(Init), "b c");
        assert_eq!(shown(InitApply(image("d"))), "b c");
        // And again before its list was complete.
        assert_eq!(shown(Init), "b c");
        assert_eq!(shown(InitApply(image("e"))), "b c");
        assert_eq!(shown(InitDone), "e");
        assert!(!watched.is_complete(HasImages::Yes), "families are not listed");
    }
}
